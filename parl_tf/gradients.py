"""Pure tensor functions on input gradients and perturbations."""

import itertools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from parl_tf.errors import InputError

LOSS_SCALE = 2.0**10
"""What losses are multiplied by while they are differentiated, so that the gradients of those that
are nearly 0 are not lost in half precision. A power of two: otherwise nothing changes."""

_LAYER_SCALE = 2.0**-8  # layers' summed outputs have gradients near the largest float16


def summed_gradients(
    tape: tf.GradientTape,
    outputs: Sequence[tf.Tensor],
    inputs: Any,
    *,
    scale: float = _LAYER_SCALE,
) -> Any:
    """Gradient of each output, summed over its elements, with respect to the inputs.

    Under a second, outer tape the result can itself be differentiated.

    Args:
        tape: Persistent tape that watched `inputs` and recorded `outputs`, and has stopped
            recording.
        outputs: Float tensors whose leading dimension is the batch, each example's slice a
            function of that example's input alone.
        inputs: Tensor (batch, ...), pixels in [0, 1]; or a list of tensors.
        scale: What an output is multiplied by and its gradient divided by, a power of two. The
            default is for layers in half precision.

    Returns:
        One tensor of the shape of `inputs` (or a list of them) for each output; zeros where an
        output does not depend on the inputs.

    Source: PARL, arXiv 2112.04948, section 4.2.
    """
    gradients = [
        tape.gradient(
            output,
            inputs,
            output_gradients=tf.fill(tf.shape(output), tf.cast(scale, output.dtype)),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        for output in outputs
    ]
    return tf.nest.map_structure(lambda gradient: gradient / scale, gradients)


def pairwise_cosine(
    gradients: Sequence[tf.Tensor], *, epsilon: float = 1e-12, constant_norms: bool = False
) -> tf.Tensor:
    """Cosine similarity of every pair of members' input gradients.

    Each gradient is flattened per example, so one example's scale never weighs on another's.
    Half-precision gradients are compared in float32.

    Args:
        gradients: Sequence of M >= 2 float tensors of one shape (batch, ...): the gradient of a
            member's summed layer output with respect to pixels in [0, 1].
        epsilon: Largest absolute entry, in gradient units, up to which a gradient counts as zero.
            A zero gradient has cosine 0 with everything, and the derivative there is 0. Departure
            from the code of GAL, TRS and Guardian, whose cosines shrink where the product of two
            norms is below 1e-8.
        constant_norms: Whether norms are constants to a derivative, not differentiated through.

    Returns:
        Tensor (batch, M * (M - 1) / 2), dimensionless, in [-1, 1] up to rounding; pairs ordered
        (0, 1), (0, 2), ..., (M - 2, M - 1).

    Raises:
        InputError: Fewer than two gradients, or shapes that differ.

    Source: PARL, arXiv 2112.04948, section 4.2.
    """
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
    if len(gradients) < 2:
        raise InputError(f"Expected at least two gradients. Received: {len(gradients)}.")
    shapes = [gradient.shape for gradient in gradients]
    if not all(shape.is_compatible_with(shapes[0]) for shape in shapes):
        raise InputError(f"Expected gradients of one shape. Received: {shapes}.")
    units = [_unit(gradient, epsilon, constant_norms) for gradient in gradients]
    cosines = [
        tf.reduce_sum(first * second, axis=1) for first, second in itertools.combinations(units, 2)
    ]
    return tf.stack(cosines, axis=1)


def _unit(gradient: tf.Tensor, epsilon: float, constant_norm: bool) -> tf.Tensor:
    """Flattens (batch, ...) to (batch, features) and scales each example to length 1 or 0."""
    if gradient.dtype in (tf.float16, tf.bfloat16):
        gradient = tf.cast(gradient, tf.float32)
    flat = tf.reshape(gradient, (tf.shape(gradient)[0], -1))
    # Scaled by the largest entry first: squares of small gradients would underflow in float32.
    largest = tf.stop_gradient(tf.reduce_max(tf.abs(flat), axis=1, keepdims=True))
    nonzero = tf.logical_not(largest <= epsilon)  # so that NaN stays NaN
    scaled = tf.where(nonzero, flat / tf.where(nonzero, largest, 1.0), 0.0)
    square = tf.reduce_sum(tf.square(scaled), axis=1, keepdims=True)
    inverse = tf.math.rsqrt(tf.where(nonzero, square, 1.0))
    return scaled * (tf.stop_gradient(inverse) if constant_norm else inverse)


def project(images: tf.Tensor, centers: tf.Tensor, epsilon: tf.Tensor | float) -> tf.Tensor:
    """Nearest images that lie in the L-infinity balls around `centers` and in [0, 1].

    Args:
        images: Tensor (batch, ...), any values.
        centers: Tensor of the same shape, pixels in [0, 1].
        epsilon: Radius of the balls, in pixel units of [0, 1].

    Returns:
        Tensor of the same shape; it differs from `centers` by at most `epsilon` up to the
        rounding of one addition. Pixels that were inside come back bit for bit.
    """
    lower = tf.maximum(centers - epsilon, 0.0)
    upper = tf.minimum(centers + epsilon, 1.0)
    return tf.clip_by_value(images, lower, upper)
