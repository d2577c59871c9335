"""Pure functions of tensors: fusion and votes, gradients and their cosines, projection."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from parl_tf.errors import InputError


class Vote(NamedTuple):
    """The outcome of a majority vote.

    Attributes:
        labels: int64 tensor (batch,), the winning classes.
        tied: bool tensor (batch,), where several classes had the most votes.
    """

    labels: tf.Tensor
    tied: tf.Tensor


def log_mean_probability(logits: Sequence[tf.Tensor]) -> tf.Tensor:
    """Logarithm of the members' mean probability.

    The result is valid as logits of a softmax cross-entropy, and stays exact where probabilities
    would round to 0 or 1.

    Args:
        logits: One tensor (batch, classes) per member.

    Returns:
        Tensor (batch, classes), natural logarithms, at most 0 up to rounding; at least float32.
    """
    stacked = _stack(logits)
    log_probabilities = tf.nn.log_softmax(stacked, axis=-1)
    count = tf.cast(tf.shape(stacked)[0], stacked.dtype)
    return tf.reduce_logsumexp(log_probabilities, axis=0) - tf.math.log(count)


def majority_vote(logits: Sequence[tf.Tensor]) -> Vote:
    """Majority vote of the members' labels.

    Among classes with equally many votes, the one with the highest summed probability wins.

    Args:
        logits: One tensor (batch, classes) per member.

    Returns:
        The winning labels, and where the vote was tied.

    Source: PARL, arXiv 2112.04948, section 5 (the vote); the tie rule is this package's.
    """
    stacked = _stack(logits)
    ballots = tf.one_hot(tf.argmax(stacked, axis=-1), stacked.shape[-1], dtype=tf.int32)
    votes = tf.reduce_sum(ballots, axis=0)
    leading = tf.equal(votes, tf.reduce_max(votes, axis=-1, keepdims=True))
    probability = tf.reduce_sum(tf.nn.softmax(stacked, axis=-1), axis=0)
    labels = tf.argmax(tf.where(leading, probability, -1.0), axis=-1)
    tied = tf.math.count_nonzero(leading, axis=-1) > 1
    return Vote(labels, tied)


def _stack(logits: Sequence[tf.Tensor]) -> tf.Tensor:
    """Stacks to (members, batch, classes), with half precision widened to float32."""
    stacked = tf.stack(list(logits))
    return tf.cast(stacked, tf.float32) if stacked.dtype.size < 4 else stacked


def widened(logits: tf.Tensor) -> tf.Tensor:
    """Logits in at least float32."""
    return tf.cast(logits, tf.float32) if logits.dtype.size < 4 else logits


LOSS_SCALE = 2.0**10
"""Losses are multiplied by this before they are differentiated, so that small gradients do not
underflow in half precision. A power of two, so that nothing else changes."""

_LAYER_SCALE = 2.0**-8  # layers' summed outputs have gradients near the largest float16


def summed_gradients(
    tape: tf.GradientTape,
    outputs: Sequence[tf.Tensor],
    inputs: Any,
    *,
    scale: float = _LAYER_SCALE,
) -> Any:
    """Gradient of each output, summed over its elements, with respect to the inputs.

    The result is differentiable by an outer tape.

    Args:
        tape: Persistent tape that watched `inputs` and recorded `outputs`, and is no longer
            recording.
        outputs: Float tensors (batch, ...) in which each example depends only on its own input.
        inputs: Tensor (batch, ...), pixels in [0, 1]; or a list of tensors.
        scale: Factor on an output before, and divisor of its gradient after differentiation; a
            power of two. The default suits layers in half precision.

    Returns:
        For each output a tensor with the shape of `inputs` (or a list of them); zeros where an
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

    Cosines are computed per example, so the scale of one example does not affect another.
    Half-precision gradients are compared in float32.

    Args:
        gradients: Sequence of M >= 2 float tensors with one shape (batch, ...): the gradient of a
            member's summed layer output with respect to pixels in [0, 1].
        epsilon: A gradient counts as zero if its largest absolute entry, in gradient units, is at
            most this. A zero gradient has cosine 0 with every other, and derivative 0. This
            departs from the code of GAL, TRS and Guardian, whose cosines shrink where the product
            of two norms is below 1e-8.
        constant_norms: Whether to treat norms as constants when differentiating.

    Returns:
        Tensor (batch, M * (M - 1) / 2), dimensionless, in [-1, 1] up to rounding; pairs ordered
        (0, 1), (0, 2), ..., (M - 2, M - 1).

    Raises:
        InputError: Fewer than two gradients, or different shapes.

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
    # Scaled by the largest entry first, as squares of small gradients would underflow in float32.
    largest = tf.stop_gradient(tf.reduce_max(tf.abs(flat), axis=1, keepdims=True))
    nonzero = tf.logical_not(largest <= epsilon)  # so that NaN stays NaN
    scaled = tf.where(nonzero, flat / tf.where(nonzero, largest, 1.0), 0.0)
    square = tf.reduce_sum(tf.square(scaled), axis=1, keepdims=True)
    inverse = tf.math.rsqrt(tf.where(nonzero, square, 1.0))
    return scaled * (tf.stop_gradient(inverse) if constant_norm else inverse)


def project(images: tf.Tensor, centers: tf.Tensor, epsilon: tf.Tensor | float) -> tf.Tensor:
    """Projects images onto the L-infinity balls around `centers`, intersected with [0, 1].

    Args:
        images: Tensor (batch, ...), any values.
        centers: Tensor of the same shape, pixels in [0, 1].
        epsilon: Radius of the balls, in pixel units of [0, 1].

    Returns:
        Tensor of the same shape; it differs from `centers` by at most `epsilon` up to the
        rounding of one addition. Pixels inside are returned bit for bit.
    """
    lower = tf.maximum(centers - epsilon, 0.0)
    upper = tf.minimum(centers + epsilon, 1.0)
    return tf.clip_by_value(images, lower, upper)
