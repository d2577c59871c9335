"""Normalisation whose gradients can be differentiated."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf


@contextlib.contextmanager
def exact_moments() -> Iterator[None]:
    """Lets normalisation by batch, layer or group be differentiated twice, meanwhile.

    `tf.nn.moments`, which Keras uses for them, takes the mean inside the variance for a constant.
    That changes no first derivative, but every second one: a loss on input gradients would be
    trained along a wrong direction. While a step is traced, plain operations stand in its place;
    values stay the same up to rounding.
    """
    original = tf.nn.moments
    tf.nn.moments = _moments
    try:
        yield
    finally:
        tf.nn.moments = original


def _moments(
    x: Any, axes: Sequence[int], shift: Any = None, keepdims: bool = False, name: str | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance over axes, as `tf.nn.moments` has them."""
    x = tf.convert_to_tensor(x)
    wide = tf.cast(x, tf.float32) if x.dtype.size < 4 else x
    mean = tf.reduce_mean(wide, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(wide - mean), axes, keepdims=keepdims)
    if not keepdims:
        mean = tf.squeeze(mean, axes)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)
