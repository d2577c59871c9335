"""Layers in a row, applied to images with draws that follow from a seed and an image's index."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from parl_tf.arguments import listed
from parl_tf.data.augmentation import AUGMENTATIONS
from parl_tf.data.augmentation.layers import Transformation, drawn_or_foreign
from parl_tf.errors import InputError


class Augmentation:
    """What is done to the images of an epoch.

    Args:
        layers: As for `training_batches`.
        image_shape: (height, width, channels) of an image.

    Raises:
        InputError: `layers` are not layers or functions, change the shape of an image, or include a
            translation that is not possible.
    """

    def __init__(self, layers: Any, image_shape: Sequence[int]) -> None:
        if layers is None:
            layers = AUGMENTATIONS["shifts"](image_shape, mirror=True)
        images, self._layers = tf.zeros((2, *image_shape)), []
        # Called once here, so that a layer makes its weights, and what it cannot do is seen.
        for layer in listed(layers):
            step = drawn_or_foreign(layer, tuple(images.shape[1:]))
            images = step(images, step.draw(tf.constant(2), tf.constant([0, 0])))
            self._layers.append(step)
            if images.shape.rank != 4:
                break
        if images.shape != (2, *image_shape):
            raise InputError(
                f"Expected an augmentation that keeps the shape of a batch, {(2, *image_shape)}. "
                f"Received: one that returns {tuple(images.shape)}."
            )

    def __len__(self) -> int:
        """The number of layers."""
        return len(self._layers)

    def draw(self, count: tf.Tensor, seeds: Sequence[tf.Tensor]) -> list[Transformation]:
        """What each layer does to each of `count` images, from one seed for each layer."""
        return [step.draw(count, seed) for step, seed in zip(self._layers, seeds, strict=True)]

    def __call__(
        self, images: tf.Tensor, drawn: Sequence[Transformation], indices: tf.Tensor
    ) -> tf.Tensor:
        """Augments a batch.

        Args:
            images: float32 tensor (batch, height, width, channels).
            drawn: As `draw` returned it.
            indices: Tensor (batch,), the images' indices in `drawn`.

        Returns:
            Tensor of the shape of `images`.
        """
        shape = images.shape
        for step, all_drawn in zip(self._layers, drawn, strict=True):
            own = {name: tf.gather(values, indices) for name, values in all_drawn.items()}
            images = step(images, own)
        return tf.ensure_shape(images, shape)
