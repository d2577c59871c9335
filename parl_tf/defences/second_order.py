"""Normalisation whose gradients can be differentiated."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

_lock = threading.Lock()
_users = 0  # replicas trace their steps in threads, each with a use of its own
_original: Any = None


@contextlib.contextmanager
def exact_moments() -> Iterator[None]:
    """Lets normalisation by batch, layer or group be differentiated twice, meanwhile.

    `tf.nn.moments`, which Keras uses for them, takes the mean inside the variance for a constant.
    That changes no first derivative, but every second one: a loss on input gradients would be
    trained along a wrong direction. While a step is traced, plain operations stand in its place;
    values stay the same up to rounding.
    """
    global _users, _original
    with _lock:
        if not _users:
            _original, tf.nn.moments = tf.nn.moments, _moments
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                tf.nn.moments = _original


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
