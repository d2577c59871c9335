"""Images and labels in memory, and checks of them."""

import dataclasses
import math
from typing import Any

import numpy as np

from parl_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and their labels.

    Nothing is checked here; functions that take a `Split` check it.

    Attributes:
        images: float32 array (n, height, width, channels), pixels in [0, 1].
        labels: int64 array (n,), from 0 to the number of classes - 1.

    Example:
        >>> images = np.zeros((6, 32, 32, 3), "float32")
        >>> split = parl_tf.Split(images, labels=np.array([0, 1, 2, 0, 1, 2]))
        >>> len(split.sample(4, seed=0))
        4
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """The examples at `indices`, in that order."""
        return Split(self.images[indices], self.labels[indices])

    def sample(self, num_examples: int, *, seed: int) -> "Split":
        """Draws `num_examples` different examples, or all if there are fewer."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(np.sort(order[:num_examples]))


def check_images(images: Any) -> np.ndarray:
    """Validates images and returns them as float32.

    Raises:
        InputError: Images that are not numbers of shape (n, height, width, channels), n > 0,
            finite and in [0, 1].
    """
    images = array_of("images", images)
    if images.ndim != 4 or not images.size or images.dtype.kind not in "fui":
        hint = ""
        if images.ndim == 3:
            hint = " Give a single image as images[None], gray images as images[..., None]."
        raise InputError(
            "Expected images as numbers of shape (n, height, width, channels), n > 0. "
            f"Received: shape {images.shape}, type {images.dtype}.{hint}"
        )
    low, high = images.min(), images.max()  # NaN if any pixel is
    if not (low >= 0 and high <= 1):
        raise pixels_out_of_range(low, high)
    return images.astype("float32", copy=False)


def pixels_out_of_range(low: Any, high: Any) -> InputError:
    """The error for pixels that range from `low` to `high`, or NaN, instead of [0, 1]."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return InputError("Expected finite pixels. Received: NaN or infinite values.")
    hint = " Divide by 255 first." if low >= 0 and 2 < high <= 255 else ""
    return InputError(f"Expected pixels in [0, 1]. Received: from {low} to {high}.{hint}")


def labels_out_of_range(low: Any, high: Any, last: int) -> InputError:
    """The error for labels that range from `low` to `high`, or NaN, instead of [0, `last`]."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return InputError("Expected finite labels. Received: NaN or infinite values.")
    return InputError(f"Expected labels from 0 to {last}. Received: from {low} to {high}.")


def check_examples(images: Any, labels: Any, num_classes: int | None = None) -> Split:
    """Validates images and labels and converts them to the types of `Split`.

    Raises:
        InputError: As for `check_images`; labels that are not integers from 0 to
            num_classes - 1 (from 0, if None) of shape (n,) or (n, 1).
    """
    images, labels = check_images(images), array_of("labels", labels)
    if labels.shape == (len(images), 1):  # as keras.datasets gives them
        labels = labels[:, 0]
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "ui":
        hint = ""
        if labels.ndim == 2 and len(labels) == len(images):
            hint = " Convert one-hot labels to integers with labels.argmax(axis=1)."
        elif labels.shape == images.shape[:1] and labels.dtype.kind == "f":
            hint = " Convert whole numbers to integers with labels.astype(int)."
        raise InputError(
            f"Expected {len(images)} integer labels, one per image. "
            f"Received: shape {labels.shape}, type {labels.dtype}.{hint}"
        )
    last = labels.max() if num_classes is None else num_classes - 1
    if labels.min() < 0 or labels.max() > last:
        raise labels_out_of_range(labels.min(), labels.max(), last)
    return Split(images, labels.astype("int64", copy=False))


def array_of(name: str, values: Any) -> np.ndarray:
    """Values as a NumPy array; raises InputError if their shapes differ."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"Expected {name} of one shape. Received: {error}") from error
