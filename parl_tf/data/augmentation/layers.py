"""Keras's random image layers, with draws that are made outside of them: one for each image."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from parl_tf.data.augmentation.named import FIXED
from parl_tf.errors import InputError

Transformation: TypeAlias = dict[str, tf.Tensor]
"""What the layer's `transform_images` takes, for n images: tensors (n, ...)."""

Draw: TypeAlias = Callable[[tf.Tensor, tf.Tensor], Transformation]
"""From a number of images and a seed, int32 (2,), to what each of these images gets."""


class DrawnLayer:
    """One of Keras's layers, in float32, whose draws are passed to it.

    Args:
        layer: A RandomFlip, RandomTranslation, RandomZoom or RandomRotation, which is copied.
        image_shape: (height, width, channels) of the images that it is applied to.

    Raises:
        InputError: A translation by whole pixels whose factor allows none.
    """

    def __init__(self, layer: keras.Layer, image_shape: Sequence[int]) -> None:
        config = {**layer.get_config(), **FIXED}
        self._layer = type(layer).from_config(config)
        height, width, _ = image_shape
        self.draw: Draw = _DRAWS[type(layer)](config, height, width)

    def __call__(self, images: tf.Tensor, transformation: Transformation) -> tf.Tensor:
        """Transforms images (n, height, width, channels) as drawn for them."""
        return self._layer.transform_images(images, transformation)


class ForeignLayer:
    """Any other layer or function, applied to whole batches as it is.

    Args:
        layer: A Keras layer, called with `training=True`, or a function of a batch of images.
    """

    def __init__(self, layer: Callable[..., Any]) -> None:
        self._layer = layer
        self._options = {"training": True} if isinstance(layer, keras.Layer) else {}

    def draw(self, count: tf.Tensor, seed: tf.Tensor) -> Transformation:
        """Nothing: what it draws, it draws itself."""
        return {}

    def __call__(self, images: tf.Tensor, transformation: Transformation) -> tf.Tensor:
        """Applies it; the result is converted to float32."""
        return tf.cast(self._layer(images, **self._options), tf.float32)


def drawn_or_foreign(layer: object, image_shape: Sequence[int]) -> DrawnLayer | ForeignLayer:
    """How a layer is applied. A subclass of a known layer may transform otherwise: it is foreign.

    Raises:
        InputError: It is neither a layer nor a function, or as for `DrawnLayer`.
    """
    if isinstance(layer, str):
        raise InputError(
            f"Expected Keras layers as augmentation. Received: {layer!r}. To make the layers of a "
            f"name: parl_tf.AUGMENTATIONS[{layer!r}](image_shape, mirror=True)."
        )
    if isinstance(layer, type) or not callable(layer):
        raise InputError(
            f"Expected Keras layers or functions of images as augmentation. Received: {layer!r}."
        )
    if type(layer) in _DRAWS:
        return DrawnLayer(layer, image_shape)
    return ForeignLayer(layer)


def _flips(config: Mapping[str, Any], height: int, width: int) -> Draw:
    """Which images are mirrored; the mode says how."""

    def draw(count: tf.Tensor, seed: tf.Tensor) -> Transformation:
        flips = tf.random.stateless_uniform((count,), seed) < 0.5
        return {"flips": flips[:, tf.newaxis, tf.newaxis, tf.newaxis]}

    return draw


def _translations(config: Mapping[str, Any], height: int, width: int) -> Draw:
    """By how many pixels images are moved down and right."""
    ends = [
        [size * end for end in _ends(config[name])]
        for name, size in (("height_factor", height), ("width_factor", width))
    ]
    if config["interpolation"] == "nearest":
        return _whole_translations(config, ends)
    lows, highs = zip(*ends, strict=True)

    def draw(count: tf.Tensor, seed: tf.Tensor) -> Transformation:
        return {"translations": tf.reverse(_uniform(count, seed, lows, highs), [1])}

    return draw


def _whole_translations(config: Mapping[str, Any], ends: Sequence[Sequence[float]]) -> Draw:
    """The same by whole pixels, each equally likely. 4/48 of 48 is 4, however it is rounded."""
    lows = [math.ceil(low - 1e-6) for low, _ in ends]
    highs = [math.floor(high + 1e-6) for _, high in ends]
    if any(low > high for low, high in zip(lows, highs, strict=True)):
        raise InputError(
            "Expected factors of RandomTranslation that allow a shift by whole pixels, as its "
            f"interpolation is nearest. Received: height_factor={config['height_factor']}, "
            f"width_factor={config['width_factor']}."
        )
    numbers = [high - low + 1 for low, high in zip(lows, highs, strict=True)]

    def draw(count: tf.Tensor, seed: tf.Tensor) -> Transformation:
        # As stateless_uniform draws integers, which takes only one range for all of them.
        bits = tf.random.stateless_uniform((count, 2), seed, None, None, tf.uint32)
        pixels = highs - tf.cast(bits, tf.int64) % numbers
        return {"translations": tf.cast(tf.reverse(pixels, [1]), tf.float32)}

    return draw


def _zooms(config: Mapping[str, Any], height: int, width: int) -> Draw:
    """How much of an image is seen in height and width; the same of both without a width_factor."""
    factors = [config["height_factor"], config["width_factor"]]
    both = factors[1] is not None
    lows, highs = zip(*(_ends(factor) for factor in factors if factor is not None), strict=True)

    def draw(count: tf.Tensor, seed: tf.Tensor) -> Transformation:
        zooms = 1 + _uniform(count, seed, lows, highs)
        return {"height_zoom": zooms[:, :1], "width_zoom": zooms[:, 1:] if both else zooms}

    return draw


def _rotations(config: Mapping[str, Any], height: int, width: int) -> Draw:
    """Rotations about the centre, as the projective transforms that `transform_images` takes."""
    ends = [2 * math.pi * end for end in _ends(config["factor"])]
    x, y = (width - 1) / 2, (height - 1) / 2

    def draw(count: tf.Tensor, seed: tf.Tensor) -> Transformation:
        angles = _uniform(count, seed, *([end] for end in ends))[:, 0]
        cos, sin = tf.cos(angles), tf.sin(angles)
        rows = [cos, -sin, x - x * cos + y * sin, sin, cos, y - x * sin - y * cos]
        zero = tf.zeros_like(angles)
        return {"rotation_matrix": tf.stack([*rows, zero, zero], axis=1)}

    return draw


_DRAWS: dict[type, Callable[[Mapping[str, Any], int, int], Draw]] = {
    keras.layers.RandomFlip: _flips,
    keras.layers.RandomTranslation: _translations,
    keras.layers.RandomZoom: _zooms,
    keras.layers.RandomRotation: _rotations,
}


def _ends(factor: Any) -> tuple[float, float]:
    """The ends of the range that a factor stands for: its own, or from -factor to factor."""
    low, high = factor if isinstance(factor, list | tuple) else (-factor, factor)
    return min(low, high), max(low, high)


def _uniform(
    count: tf.Tensor, seed: tf.Tensor, lows: Sequence[float], highs: Sequence[float]
) -> tf.Tensor:
    """Draws (count, n), each column between a low and a high."""
    drawn = tf.random.stateless_uniform((count, len(lows)), seed)
    return lows + drawn * [high - low for low, high in zip(lows, highs, strict=True)]
