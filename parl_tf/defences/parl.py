"""PARL: members whose early layers have input gradients in different directions."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from parl_tf.arguments import check_choice
from parl_tf.defences.base import Ensemble
from parl_tf.defences.forward import ForwardPass
from parl_tf.graphs.flattening import flattened
from parl_tf.graphs.folding import FoldedNetwork
from parl_tf.graphs.layer_sums import LayerSums
from parl_tf.graphs.second_derivatives import Differentiated
from parl_tf.graphs.second_order import DifferentiableNetwork
from parl_tf.tensors import pairwise_cosine, summed_gradients

_COSINES = {"signed": lambda cosine: cosine, "absolute": tf.abs, "positive": tf.nn.relu}


@keras.saving.register_keras_serializable(package="parl_tf")
class PARL(Ensemble):
    """Pairwise adversarially robust loss.

    The penalty is the cosine similarity of every two members' input gradients, one gradient for
    each of their first layers (of the layer's summed output), summed over layers and pairs and
    averaged over examples. With N members and K layers it lies in
    [-K * N / 2, K * N * (N - 1) / 2]: near the lower end it is saturated and has no effect. Each
    layer's part is reported as `penalty_1` to `penalty_K`.

    Args:
        members: As for `Ensemble`. Their convolutions are found in their graphs.
        num_layers: K, the number of layers compared.
        diversity_weight: Weight of the penalty (gamma 2).
        tap: What is compared: "activation", the activation behind each convolution, or
            "convolution", its raw output. On raw outputs the penalty is misled: it sees a network
            and its copy with negated channels, which is the same function, as different.
        penalty_batch_norm: Statistics of batch normalisation for the penalty: "moving", so that an
            example's gradients do not depend on the others, or "batch", as in the training pass.
        layer_reduction: How layers are combined: "sum" or "mean".
        cosine: What is penalised: the "signed" cosine, its "absolute" value or its "positive"
            part.
        **options: As for `Ensemble`; `accuracy_weight` is the paper's gamma 1.

    Raises:
        InputError: What `Ensemble` and `expose_layers` refuse, or an unknown choice.

    Example:
        >>> import parl_tf
        >>> network = dict(input_shape=(8, 8, 3), blocks=1)
        >>> members = [parl_tf.resnet20(10, seed=seed, **network) for seed in (0, 1)]
        >>> ensemble = parl_tf.PARL(members, num_layers=3, diversity_weight=0.5)
        >>> [term.name for term in ensemble.term_trackers]
        ['penalty', 'penalty_1', 'penalty_2', 'penalty_3']

    Source: PARL, arXiv 2112.04948 v1, section 4.2. The paper leaves open which output of a layer
    is meant and which statistics it is computed under; the defaults are this package's choice.
    """

    def __init__(
        self,
        members: Sequence[keras.Model],
        *,
        num_layers: int = 7,
        diversity_weight: float = 0.5,
        tap: str = "activation",
        penalty_batch_norm: str = "moving",
        layer_reduction: str = "sum",
        cosine: str = "signed",
        **options: Any,
    ) -> None:
        check_choice("penalty_batch_norm", penalty_batch_norm, ("moving", "batch"))
        check_choice("layer_reduction", layer_reduction, ("sum", "mean"))
        check_choice("cosine", cosine, _COSINES)

        def differentiated(member: keras.Model) -> Differentiated:
            sums = LayerSums(member, num_layers, tap=tap)
            return Differentiated(sums.sources, training=penalty_batch_norm == "batch")

        super().__init__(
            members,
            differentiated=differentiated,
            term_weights={"penalty": float(diversity_weight)},
            reported=[f"penalty_{layer}" for layer in range(1, num_layers + 1)],
            **options,
        )
        self.num_layers = num_layers
        self.tap = tap
        self.penalty_batch_norm = penalty_batch_norm
        self.layer_reduction = layer_reduction
        self.cosine = cosine
        # These share the members' layers. Keras does not inspect bound methods, so they are neither
        # saved nor counted a second time.
        sums = [LayerSums(member, num_layers, tap=tap) for member in self.members]
        self._sums = tuple(each.__call__ for each in sums)
        self._passes = tuple(map(self._pass_of, self.members, sums))

    @property
    def diversity_weight(self) -> float:
        """Weight of the penalty."""
        return self.term_weights["penalty"]

    def _pass_of(self, member: keras.Model, sums: LayerSums) -> Callable[..., Any]:
        """The function that returns a member's layers, after its logits if one pass gives both."""
        if self.penalty_batch_norm == "batch":
            logits = flattened(member).outputs[0]
            return DifferentiableNetwork(member, [logits, *sums.sources]).__call__
        return FoldedNetwork(member, sums.sources).__call__

    def forward_member(
        self, index: int, inputs: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Logits, and for each compared layer the tensor to differentiate."""
        if self.penalty_batch_norm == "batch":
            logits, *layers = self._passes[index](inputs, training=training)
        else:
            layers = self._passes[index](inputs)  # before training updates the statistics
            logits = self.run_member(index, inputs, training)
        return logits, self._sums[index](layers)

    def terms(self, forward: ForwardPass) -> dict[str, tf.Tensor]:
        """The penalty, and each layer's part of it."""
        # Each gradient is computed once and then shared by all pairs of its member.
        gradients = [
            summed_gradients(forward.tape, layers, forward.inputs) for layers in forward.layers
        ]
        transform = _COSINES[self.cosine]
        penalties = [
            tf.reduce_mean(tf.reduce_sum(transform(pairwise_cosine(members)), axis=1))
            for members in zip(*gradients, strict=True)
        ]
        reduce = tf.reduce_sum if self.layer_reduction == "sum" else tf.reduce_mean
        layers = {f"penalty_{layer}": value for layer, value in enumerate(penalties, start=1)}
        return {"penalty": reduce(tf.stack(penalties)), **layers}

    def get_config(self) -> dict[str, Any]:
        """Members and arguments."""
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "diversity_weight": self.diversity_weight,
            "tap": self.tap,
            "penalty_batch_norm": self.penalty_batch_norm,
            "layer_reduction": self.layer_reduction,
            "cosine": self.cosine,
        }
