"""Networks whose gradients can be differentiated."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from parl_tf.graphs.resizing import differentiable_resize, differentiable_resize_with_pad
from parl_tf.graphs.twice_differentiable import (
    LEAST_EPSILON,
    BatchMoments,
    batch_normalized,
    rectified,
)

_lock = threading.Lock()
_users = 0  # replicas trace their steps in threads, each with a use of its own
_originals: dict[str, Any] = {}
_image_originals: dict[str, Any] = {}
_moments_of: dict[int, BatchMoments] = {}  # by the id of the mean, which stays alive with it
_likely_epsilon = 1e-3  # the last one seen; moments are taken before that of theirs is known


@contextlib.contextmanager
def differentiable_twice() -> Iterator[None]:
    """Lets what Keras's layers compute be differentiated twice, meanwhile, and at a small cost.

    `tf.nn.moments`, by which Keras normalises by batch, layer or group, takes the mean inside the
    variance for a constant. That changes no first derivative, but every second one: a loss on
    input gradients would be trained along a wrong direction. While a step is traced, plain
    operations stand in its place. Normalisation by batch (over the axis -1, as is the default) and
    ReLU, of which there are many, become `batch_normalized` and `rectified`. Values stay the same
    up to rounding. `tf.nn.softsign`, `tf.image.resize` and `tf.image.resize_with_pad`, whose second
    derivatives TensorFlow lacks, get them.
    """
    global _users
    replacements = {
        "moments": _moments,
        "batch_normalization": _batch_normalization,
        "relu": _relu,
        "leaky_relu": _leaky_relu,
        "softsign": _softsign,
    }
    image_replacements = {
        "resize": differentiable_resize,
        "resize_with_pad": differentiable_resize_with_pad,
    }
    with _lock:
        if not _users:
            for name, function in replacements.items():
                _originals[name] = getattr(tf.nn, name)
                setattr(tf.nn, name, function)
            for name, differentiable in image_replacements.items():
                _image_originals[name] = getattr(tf.image, name)
                setattr(tf.image, name, differentiable(_image_originals[name]))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                for name, function in _originals.items():
                    setattr(tf.nn, name, function)
                for name, function in _image_originals.items():
                    setattr(tf.image, name, function)
                _moments_of.clear()


def _moments(
    x: Any,
    axes: int | Sequence[int],
    shift: Any = None,
    keepdims: bool = False,
    name: str | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance over axes, as `tf.nn.moments` has them."""
    x = tf.convert_to_tensor(x)
    over_all_but_channels = x.shape.rank == 4 and tf.nest.flatten(axes) == [0, 1, 2]
    if x.dtype == tf.float32 and over_all_but_channels and not keepdims:
        moments = BatchMoments(x, _likely_epsilon)
        _moments_of[id(moments.mean)] = moments
        return moments.mean, moments.variance
    wide = tf.cast(x, tf.float32) if x.dtype.size < 4 else x
    mean = tf.reduce_mean(wide, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(wide - mean), axes, keepdims=keepdims)
    if not keepdims:
        mean = tf.squeeze(mean, axes)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def _batch_normalization(
    x: Any,
    mean: Any,
    variance: Any,
    offset: Any,
    scale: Any,
    variance_epsilon: float,
    name: str | None = None,
) -> tf.Tensor:
    """What `tf.nn.batch_normalization` returns; faster by the moments of the inputs themselves."""
    global _likely_epsilon
    moments = _moments_of.get(id(mean))
    vectors = all(each is None or _is_vector(each) for each in (scale, offset))
    if (
        moments is None
        or moments.inputs is not x
        or moments.variance is not variance
        or not vectors
        or variance_epsilon < LEAST_EPSILON
    ):
        original = _originals["batch_normalization"]
        return original(x, mean, variance, offset, scale, variance_epsilon, name)
    if variance_epsilon != moments.epsilon:  # a second fused operation, of the same moments
        moments = BatchMoments(x, variance_epsilon)
        _likely_epsilon = variance_epsilon
    scale = tf.ones_like(mean) if scale is None else tf.convert_to_tensor(scale)
    offset = tf.zeros_like(mean) if offset is None else tf.convert_to_tensor(offset)
    return batch_normalized(moments, scale, offset)


def _is_vector(values: Any) -> bool:
    return tf.convert_to_tensor(values).shape.rank == 1


def _relu(features: Any, name: str | None = None) -> tf.Tensor:
    """What `tf.nn.relu` returns."""
    features = tf.convert_to_tensor(features)
    return rectified(features) if features.dtype.is_floating else _originals["relu"](features)


def _leaky_relu(features: Any, alpha: float = 0.2, name: str | None = None) -> tf.Tensor:
    """What `tf.nn.leaky_relu` returns."""
    features = tf.convert_to_tensor(features)
    if features.dtype.is_floating:
        return rectified(features, alpha)
    return _originals["leaky_relu"](features, alpha)


def _softsign(features: Any, name: str | None = None) -> tf.Tensor:
    """What `tf.nn.softsign` returns."""
    features = tf.convert_to_tensor(features)
    return features / (1 + tf.abs(features))
