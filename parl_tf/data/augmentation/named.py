"""The registered augmentations: a random shift, and mirroring where it is allowed."""

from collections.abc import Sequence
from typing import Any

import keras

from parl_tf.errors import InputError

# Whatever Keras's global settings are. The seed is not used (draws follow from the run's), but
# without one a layer would take its seed from Python's global generator.
FIXED = {"dtype": "float32", "data_format": "channels_last", "seed": 0}


def shifts(image_shape: Sequence[int], mirror: bool) -> list[keras.Layer]:
    """Shifts by whole pixels, up to a tenth of the image, filled with the nearest edge pixel.

    Source: the Keras example for ResNet20 on CIFAR-10. Departure: its generator shifts by fractions
    of a pixel; for those, see `bilinear_shifts`.
    """
    return _shifted(0.1, 0.1, mirror, fill_mode="nearest", interpolation="nearest")


def bilinear_shifts(image_shape: Sequence[int], mirror: bool) -> list[keras.Layer]:
    """Shifts by any distance up to a tenth of the image, filled with the nearest edge pixel."""
    return _shifted(0.1, 0.1, mirror, fill_mode="nearest", interpolation="bilinear")


def edge_crops(image_shape: Sequence[int], mirror: bool, *, pixels: int = 4) -> list[keras.Layer]:
    """Crops of images padded by `pixels` of their edge."""
    return _crops(image_shape, mirror, pixels, fill_mode="nearest")


def black_crops(image_shape: Sequence[int], mirror: bool, *, pixels: int = 4) -> list[keras.Layer]:
    """Crops of images padded by `pixels` black ones; for 0, images are only mirrored."""
    return _crops(image_shape, mirror, pixels, fill_mode="constant")


def none(image_shape: Sequence[int], mirror: bool) -> list[keras.Layer]:
    """No augmentation."""
    return []


def _crops(
    image_shape: Sequence[int], mirror: bool, pixels: int, *, fill_mode: str
) -> list[keras.Layer]:
    """Shifts by up to `pixels` whole pixels.

    Raises:
        InputError: An image has fewer pixels.
    """
    height, width = image_shape[:2]
    if pixels > min(height, width):
        raise InputError(
            f"Expected crops of at most {min(height, width)} pixels, the shorter side of an image. "
            f"Received: {pixels}."
        )
    factors = pixels / height, pixels / width
    return _shifted(*factors, mirror, fill_mode=fill_mode, interpolation="nearest")


def _shifted(height_factor: float, width_factor: float, mirror: bool, **how: Any) -> list:
    """A random shift, then mirroring if it is allowed.

    The shift is there even if it is by 0 pixels: a layer's draws depend on its place.
    """
    shift = keras.layers.RandomTranslation(height_factor, width_factor, **how, **FIXED)
    return [shift, keras.layers.RandomFlip("horizontal", **FIXED)] if mirror else [shift]
