"""Resizing of images whose gradients can be differentiated."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

_Function = Callable[..., tf.Tensor]


def differentiable_resize(original: _Function) -> _Function:
    """Makes a stand-in for `tf.image.resize` that can be differentiated any number of times.

    Resizing is linear, so its gradient is resizing by the transposed matrices, one an axis, and
    the gradient of that is resizing again. TensorFlow's second derivative is silently missing
    where it resizes bilinearly, and raises LookupError in the other modes.

    Args:
        original: `tf.image.resize` itself, which still computes all values. The matrices are what
            it makes of unit vectors. Where a size is known only when a graph runs, its own
            gradient takes their place, which XLA does not compile in every mode.

    Returns:
        A function of the same arguments. Resizing by "area" is left as it is: TensorFlow has not
        even a first derivative of it.
    """

    def resize(
        images: Any,
        size: Any,
        method: str = "bilinear",
        preserve_aspect_ratio: bool = False,
        antialias: bool = False,
        name: str | None = None,
    ) -> tf.Tensor:
        options = {"method": method, "antialias": antialias}

        def resized(x):
            return original(
                x, size, preserve_aspect_ratio=preserve_aspect_ratio, name=name, **options
            )

        def matrices(before, after):
            if method == "area":
                return None
            sizes = zip(before[-3:-1], after[-3:-1], strict=True)
            return [_matrix(original, *axis, **options) for axis in sizes]

        return _linear(resized, images, matrices)

    return resize


def differentiable_resize_with_pad(original: _Function) -> _Function:
    """Makes a stand-in for `tf.image.resize_with_pad` that can be differentiated twice.

    Args:
        original: `tf.image.resize_with_pad` itself, whose values and first derivatives stay.

    Returns:
        A function of the same arguments.
    """

    def resize_with_pad(image: Any, *arguments: Any, **options: Any) -> tf.Tensor:
        return _linear(lambda x: original(x, *arguments, **options), image)

    return resize_with_pad


def _linear(function, images, matrices=lambda before, after: None):
    """A linear function of images, differentiable any number of times.

    `matrices` gets the shapes before and after, of known height and width, and gives those of the
    two axes; or None, and TensorFlow's own first derivative is the transposed function.
    """
    images = tf.convert_to_tensor(images)
    if not images.dtype.is_floating:
        return function(images)
    shape = images.shape

    @tf.custom_gradient
    def forward(x):
        return function(x), transposed

    @tf.custom_gradient
    def transposed(upstream):
        # In half precision as in single: what TensorFlow adds up in half it loses.
        wide = tf.cast(upstream, tf.float32) if upstream.dtype.size < 4 else upstream
        static = shape[-3:-1].is_fully_defined() and upstream.shape[-3:-1].is_fully_defined()
        along = matrices(shape, upstream.shape) if static else None
        if along is not None:
            rows, columns = (tf.constant(matrix, wide.dtype) for matrix in along)
            back = tf.einsum("ph,...pwc->...hwc", rows, wide)
            back = tf.einsum("qw,...hqc->...hwc", columns, back)
        else:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                zeros = tf.zeros_like(images, wide.dtype)
                tape.watch(zeros)
                value = function(zeros)
            back = tape.gradient(value, zeros, output_gradients=wide)
        return tf.cast(back, images.dtype), forward

    return forward(images)


@functools.lru_cache(maxsize=64)
def _matrix(original: _Function, before: int, after: int, **options: Any) -> np.ndarray:
    """The matrix (after, before) by which an axis is resized."""
    with tf.init_scope(), tf.device("CPU:0"):
        # Each unit vector is a channel of an image one pixel wide.
        units = tf.reshape(tf.eye(before), (1, before, 1, before))
        return original(units, (after, 1), **options)[0, :, 0].numpy()
