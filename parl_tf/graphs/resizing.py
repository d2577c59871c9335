"""Resizing of images whose gradients can be differentiated."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

_Function = Callable[[tf.Tensor], tf.Tensor]


def resized(function: _Function, images: tf.Tensor, options: Any) -> tf.Tensor:
    """The output of a Keras function that resizes, differentiable any number of times.

    Resizing is linear, so its gradient is resizing by the transposed matrices, one per axis, and
    the gradient of that is resizing again. TensorFlow's second derivative is silently missing for
    bilinear resizing, and raises LookupError in the other modes.

    Args:
        function: Resizes images; computes all values. If a size is known only when a graph runs,
            if images are also cropped or padded, or if channels come first, there are no matrices.
            Its own gradient then replaces them, which XLA does not compile in every mode.
        images: Tensor (..., height, width, channels).
        options: An object with the function's options as attributes: `interpolation`, and perhaps
            `antialias`, `data_format`, `crop_to_aspect_ratio`, `pad_to_aspect_ratio` and
            `fill_value`.

    Returns:
        What `function` returns. Resizing by "area" has not even a first derivative in TensorFlow.
    """
    if not images.dtype.is_floating:
        return function(images)
    given = functools.partial(getattr, options)
    padded = given("pad_to_aspect_ratio", False)
    matrices = not (
        padded
        or given("crop_to_aspect_ratio", False)
        or options.interpolation == "area"
        or given("data_format", "") == "channels_first"
    )
    way = options.interpolation, given("antialias", False)
    shape = images.shape

    @tf.custom_gradient
    def forward(x: tf.Tensor) -> Any:
        return function(x), transposed

    @tf.custom_gradient
    def transposed(upstream: tf.Tensor) -> Any:
        # Half precision is widened to single, as TensorFlow's sums in half lose digits.
        wide = tf.cast(upstream, tf.float32) if upstream.dtype.size < 4 else upstream
        after = upstream.shape
        if matrices and shape[-3:-1].is_fully_defined() and after[-3:-1].is_fully_defined():
            rows, columns = (
                tf.constant(_matrix(*sizes, *way), wide.dtype)
                for sizes in zip(shape[-3:-1], after[-3:-1], strict=True)
            )
            back = tf.einsum("ph,...pwc->...hwc", rows, wide)
            back = tf.einsum("qw,...hqc->...hwc", columns, back)
        else:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                zeros = tf.zeros_like(images, wide.dtype)
                tape.watch(zeros)
                value = function(zeros)
            back = tape.gradient(value, zeros, output_gradients=tf.cast(wide, value.dtype))
        return tf.cast(back, images.dtype), again

    def again(upstream: tf.Tensor) -> tf.Tensor:
        if padded and given("fill_value", 0):  # the padding does not depend on the images
            return forward(upstream) - function(tf.zeros_like(upstream))
        return forward(upstream)

    return forward(images)


@functools.lru_cache(maxsize=64)
def _matrix(before: int, after: int, interpolation: str, antialias: bool) -> np.ndarray:
    """The matrix (after, before) that resizes an axis, from the resized unit vectors."""
    with tf.init_scope(), tf.device("CPU:0"):
        # Each unit vector is a channel of an image one pixel wide.
        units = tf.reshape(tf.eye(before), (1, before, 1, before))
        resize = functools.partial(tf.image.resize, method=interpolation, antialias=antialias)
        return resize(units, (after, 1))[0, :, 0].numpy()
