"""Augmentation by name, each a function from the shape of images to Keras layers.

A new one is a function in `named.py` and a line here.
"""

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from parl_tf.arguments import check_choice
from parl_tf.registry import Registry

if TYPE_CHECKING:
    import keras

__all__ = ["AUGMENTATIONS"]

MakeLayers: TypeAlias = "Callable[..., list[keras.Layer]]"


class _Augmentations(Registry[MakeLayers]):
    """A registry whose names of crops may end in any number of pixels from 0 to 999."""

    def __getitem__(self, name: str) -> MakeLayers:
        listed, pixels = _parsed(name)
        make = super().__getitem__(listed)
        return make if pixels is None else functools.partial(make, pixels=pixels)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(_parsed(name)[0])

    def check(self, name: object) -> None:
        """Raises InputError unless a name is registered; the message suggests close ones."""
        if name not in self:
            check_choice(self.kind, name, self)


def _parsed(name: str) -> tuple[str, int | None]:
    """The registered name, and the number of pixels that a name of crops ends in."""
    crops = re.fullmatch(r"((?:edge|black)-crops-)(0|[1-9]\d{0,2})", name, re.ASCII)
    return (f"{crops[1]}4", int(crops[2])) if crops else (name, None)


AUGMENTATIONS = _Augmentations(
    "augmentation",
    {
        "shifts": "parl_tf.data.augmentation.named:shifts",
        "bilinear-shifts": "parl_tf.data.augmentation.named:bilinear_shifts",
        "edge-crops-4": "parl_tf.data.augmentation.named:edge_crops",
        "black-crops-4": "parl_tf.data.augmentation.named:black_crops",
        "none": "parl_tf.data.augmentation.named:none",
    },
)
"""Augmentation by name: a mapping to functions that make the layers for `training_batches`.

Such a function takes the shape of an image and whether images may be mirrored. All but "none"
mirror half of the images then, left to right. Before that they shift each image, by another
distance in height and in width:

- "shifts", the default, by whole pixels, up to a tenth of the image in each direction. The gap is
  filled with the nearest edge pixel.
- "bilinear-shifts", the same by fractions of a pixel, as the generator in Keras's CIFAR-10 example
  does.
- "edge-crops-4", by up to four whole pixels, with the gap filled likewise: a crop of the image
  padded by its edge.
- "black-crops-4", by up to four whole pixels, with a black gap: a crop of the image padded with
  zeros.

The number of pixels may be another one, as in "black-crops-2".

Example:
    >>> layers = parl_tf.AUGMENTATIONS["shifts"](dataset.image_shape, mirror=False)
    >>> [type(layer).__name__ for layer in layers]
    ['RandomTranslation']
    >>> batches = parl_tf.training_batches(dataset, batch_size=16, seed=0, augmentation=layers)
"""
