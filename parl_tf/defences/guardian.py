"""Guardian: members whose first layers respond differently to their kernels and to images."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parl_tf.arguments import check_choice
from parl_tf.defences.base import Ensemble
from parl_tf.defences.former_arguments import FORMER_ARGUMENTS
from parl_tf.defences.forward import ForwardPass
from parl_tf.errors import InputError
from parl_tf.graphs.exposure import layer_outputs, main_convolutions
from parl_tf.graphs.flattening import flattened
from parl_tf.graphs.layer_sums import LayerSums
from parl_tf.graphs.second_derivatives import Differentiated
from parl_tf.graphs.second_order import DifferentiableNetwork
from parl_tf.runtime.replicas import gathered, summed
from parl_tf.tensors import pairwise_cosine, summed_gradients, widened

NORMS = ("constant", "differentiated")
CORRELATIONS = ("biased", "pearson")
_LEAST = 1e-12  # the largest deviation of a unit that does not vary; its square is far from 0


@keras.saving.register_keras_serializable(package="parl_tf")
class Guardian(Ensemble):
    """The ensemble of PARL's successor.

    The penalty is the product of two sums over K layers and pairs of members, divided by K. One
    sums the cosines of their weight gradients, that of layer k being the gradient of its summed
    output with respect to the kernels of convolutions 1 to k (reported as `kernel_cosine`). The
    other sums the correlations of their units' outputs across the batch, averaged over a layer's
    units (reported as `output_correlation`).

    Its authors train it on networks without batch normalisation after the stem
    (`NETWORKS["resnet20-bare-stem"]`).

    Args:
        members: As for `Ensemble`. Their convolutions are found in their graphs; the first K must
            have kernels of the same shapes in all members.
        num_layers: K, the number of layers compared.
        diversity_weight: Weight of the penalty (gamma).
        stem_tap: What is compared of the first layer, in both factors: "activation", the
            activation behind the convolution (and its normalisation, if it has one), or
            "convolution", its raw output; None for the value of `tap`. The sum of a raw output
            has the same gradient in all members, so the first cosine is then always 1.
        tap: The same for the other layers. Either way the penalty sees a network and its copy with
            negated channels, which is the same function, as different: on raw outputs through the
            correlation, on activations through the kernels' gradients.
        norms: "constant" stops gradients at the norms in the cosine; "differentiated" lets them
            through. The value is the same.
        correlation: "biased" for the covariance, a mean over the n images of the batch, divided
            by deviations with n - 1 degrees of freedom, which is (n - 1) / n times Pearson's
            correlation; or "pearson".
        member_reduction: As for `Ensemble`.
        **options: As for `Ensemble`.

    Raises:
        InputError: What `Ensemble` and `expose_layers` refuse, an unknown choice, or kernels of
            different shapes.

    Example:
        >>> import parl_tf
        >>> network = dict(input_shape=(8, 8, 3), blocks=1)
        >>> members = [parl_tf.resnet20(10, seed=seed, **network) for seed in (0, 1)]
        >>> ensemble = parl_tf.Guardian(members, num_layers=5)
        >>> [term.name for term in ensemble.term_trackers]
        ['penalty', 'kernel_cosine', 'output_correlation']

    Source: arXiv 2112.04948 v2 (WACV 2025), section 3. Its text uses raw outputs of all layers and
    Pearson's correlation; the defaults are those of the authors' code.
    """

    former_arguments = FORMER_ARGUMENTS["guardian"]

    def __init__(
        self,
        members: Sequence[keras.Model],
        *,
        num_layers: int = 5,
        diversity_weight: float = 0.25,
        stem_tap: str | None = "activation",
        tap: str = "convolution",
        norms: str = "constant",
        correlation: str = "biased",
        member_reduction: str = "mean",
        **options: Any,
    ) -> None:
        check_choice("norms", norms, NORMS)
        check_choice("correlation", correlation, CORRELATIONS)
        taps = (stem_tap or tap, *[tap] * (num_layers - 1))

        def differentiated(member: keras.Model) -> Differentiated:
            kernels = [kernel for layer in _kernels(member, num_layers) for kernel in layer]
            return Differentiated(LayerSums(member, num_layers, tap=taps).sources, kernels)

        super().__init__(
            members,
            differentiated=differentiated,
            member_reduction=member_reduction,
            term_weights={"penalty": float(diversity_weight)},
            reported=["kernel_cosine", "output_correlation"],
            **options,
        )
        self.num_layers = num_layers
        self.stem_tap = stem_tap
        self.tap = tap
        self.norms = norms
        self.correlation = correlation
        self._taps = taps
        # As bound methods these are neither saved nor counted in addition to the members.
        sums = [LayerSums(member, num_layers, tap=self._taps) for member in self.members]
        self._sums = tuple(each.__call__ for each in sums)
        self._passes = tuple(map(self._pass_of, self.members, sums))
        shapes = [
            [[tuple(kernel.shape) for kernel in layer] for layer in self._kernels(member)]
            for member in self.members
        ]
        if any(shape != shapes[0] for shape in shapes):
            raise InputError(
                f"Expected members whose first {num_layers} convolutions have kernels of the same "
                f"shapes. Received: {shapes}."
            )

    def _pass_of(self, member: keras.Model, sums: LayerSums) -> Callable[..., Any]:
        """The function that returns a member's logits, compared outputs and their sums' sources."""
        layers = layer_outputs(member, self.num_layers, tap=self._taps)
        logits = flattened(member).outputs[0]
        outputs = [logits, *layers, *sums.sources]
        return DifferentiableNetwork(member, outputs).__call__

    def _kernels(self, member: keras.Model) -> list[list[keras.Variable]]:
        """For each compared layer, the kernels of its convolution."""
        return _kernels(member, self.num_layers)

    def watched(self) -> list[Any]:
        """The kernels."""
        return [k.value for m in self.members for layer in self._kernels(m) for k in layer]

    def forward_member(
        self, index: int, inputs: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Logits; the outputs of the compared layers, and the tensors to differentiate for them."""
        logits, *found = self._passes[index](inputs, training=training)
        outputs, sources = found[: self.num_layers], found[self.num_layers :]
        return logits, [*outputs, *self._sums[index](sources)]

    def terms(self, forward: ForwardPass) -> dict[str, tf.Tensor]:
        """The penalty and its two factors."""
        gradients = [
            self._kernel_gradients(forward.tape, member, layers[self.num_layers :])
            for member, layers in zip(self.members, forward.layers, strict=True)
        ]
        constant = self.norms == "constant"
        cosine = tf.add_n(
            [
                tf.reduce_sum(pairwise_cosine(layer, constant_norms=constant))
                for layer in zip(*gradients, strict=True)
            ]
        )
        outputs = [map(gathered, layers[: self.num_layers]) for layers in forward.layers]
        biased = self.correlation == "biased"
        correlation = tf.add_n(
            [_correlation(layer, biased=biased) for layer in zip(*outputs, strict=True)]
        )
        return {
            "penalty": cosine * correlation / self.num_layers,
            "kernel_cosine": cosine,
            "output_correlation": correlation,
        }

    def _kernel_gradients(
        self, tape: tf.GradientTape, member: keras.Model, layers: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """A member's gradient for each layer, as a batch of one long vector."""
        kernels = self._kernels(member)
        gradients = []
        for index, output in enumerate(layers):
            sources = [kernel.value for layer in kernels[: index + 1] for kernel in layer]
            (parts,) = summed_gradients(tape, [output], sources)
            vector = tf.concat([tf.reshape(part, (1, -1)) for part in parts], axis=1)
            gradients.append(summed(vector))
        return gradients

    def get_config(self) -> dict[str, Any]:
        """Members and arguments."""
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "diversity_weight": self.term_weights["penalty"],
            "stem_tap": self.stem_tap,
            "tap": self.tap,
            "norms": self.norms,
            "correlation": self.correlation,
        }


def _kernels(member: keras.Model, num_layers: int) -> list[list[keras.Variable]]:
    """For each of a member's first convolutions, its kernels."""
    layers = main_convolutions(member, num_layers)
    return [[weight for weight in layer.weights if len(weight.shape) > 1] for layer in layers]


def _correlation(outputs: Sequence[tf.Tensor], *, biased: bool) -> tf.Tensor:
    """Sum over pairs of the mean over units of Pearson's correlation across the batch.

    A unit that does not vary has correlation 0.
    """
    units = [tf.reshape(widened(output), (tf.shape(output)[0], -1)) for output in outputs]
    pearson = tf.reduce_mean(_pearson(*units))
    if not biased:
        return pearson
    count = tf.cast(tf.shape(units[0])[0], pearson.dtype)
    return (count - 1) / count * pearson


@tf.custom_gradient
def _pearson(*outputs: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    """Each unit's correlations, summed over pairs of members.

    The gradient is written out, as every operation on outputs costs as much as reading them. With
    a member's deviations from the mean scaled to length 1, v, and V their sum over members, it is
    (V - (v . V) v) over their length: that of the cosines of v with all others.

    Args:
        *outputs: For each member a tensor (batch, units), at least float32.

    Returns:
        Tensor (units,).
    """
    vectors, inverses = zip(*map(_deviations, outputs), strict=True)
    total = tf.add_n(vectors)
    cosines = [tf.reduce_sum(vector * total, axis=0) for vector in vectors]  # with itself too
    itself = tf.add_n([tf.cast(inverse > 0, inverse.dtype) for inverse in inverses])

    def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
        return [
            (total - cosine * vector) * (upstream * inverse)
            for vector, inverse, cosine in zip(vectors, inverses, cosines, strict=True)
        ]

    return (tf.add_n(cosines) - itself) / 2, gradient


def _deviations(units: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Each unit's deviations from its mean, scaled to length 1, and the inverse of their length.

    Both are 0 for a unit that does not vary.
    """
    mean = tf.reduce_mean(units, axis=0)
    low, high = tf.reduce_min(units, axis=0), tf.reduce_max(units, axis=0)
    largest = tf.maximum(high - mean, mean - low)
    # The rounding of a mean is not variation.
    rounding = 8 * np.finfo(units.dtype.as_numpy_dtype).eps
    constant = largest <= tf.maximum(rounding * tf.maximum(tf.abs(low), tf.abs(high)), _LEAST)
    deviations = units - mean
    square = tf.reduce_sum(tf.square(deviations), axis=0)
    inverse = tf.math.rsqrt(tf.where(constant, tf.ones_like(square), square))
    inverse = tf.where(constant, tf.zeros_like(inverse), inverse)
    return deviations * inverse, inverse
