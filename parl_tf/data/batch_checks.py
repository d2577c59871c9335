"""Checks of the batches passed to a model, in Python or as assertions in a graph."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parl_tf.data.examples import labels_out_of_range, pixels_out_of_range
from parl_tf.errors import InputError

PIXEL_TOLERANCE = 1e-3
"""How far pixels may lie outside [0, 1], as resizing may round past the ends."""

# How TensorFlow reports a failed `_assert`, and an InputError raised in Python code that it calls.
_ASSERTED = re.compile(
    r"\[Expected finite (pixels|labels|sample weights)(?: from 0 to (\d+))?[^\n]*? from\] "
    r"\[([^\s\]]+)\] \[to\] \[([^\s\]]+)\]"
)
_RAISED = re.compile(r"\bInputError: (Expected [^\n]+)")


@dataclasses.dataclass(frozen=True)
class BatchCheck:
    """What a model expects of its batches, and checks for it.

    Attributes:
        num_classes: Number of classes. Labels are numbers from 0 to num_classes - 1, of shape
            (n,) or (n, 1) and any numeric type, or one-hot or soft, (n, num_classes).
        takes_pairs: Whether images may be given as pairs (images, partners).
        ignored_label: A label that the loss ignores, or None.
    """

    num_classes: int
    takes_pairs: bool = False
    ignored_label: int | None = None

    def unpack(self, batch: Any) -> tuple[list[Any], Any, Any]:
        """Splits a batch as Keras does.

        Args:
            batch: (images, labels) or (images, labels, sample weights), as arrays, tensors or
                their specifications.

        Returns:
            A list of the images and, if given, their partners; the labels; the sample weights or
            None.

        Raises:
            InputError: Missing or surplus parts, pixels that are not floating-point numbers, or
                labels that are not numbers or have the wrong shape.
        """
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
        if isinstance(images, dict) or labels is None:
            received = "a dictionary" if isinstance(images, dict) else "no labels"
            raise InputError(f"Expected batches of images and labels. Received: {received}.")
        if not hasattr(labels, "dtype"):
            labels = tf.convert_to_tensor(labels)
        parts = [images]
        if isinstance(images, tuple | list):
            parts = list(images)
            if not self.takes_pairs or len(parts) != 2:
                raise InputError(
                    f"Expected batches of images and labels. Received: {len(parts)} parts in "
                    "place of the images."
                )
        for part in parts:
            _check_pixel_type(part)
        self._check_label_type(labels)
        return parts, labels, weights

    def check(self, batch: Any) -> None:
        """Checks the values of a batch of arrays or eager tensors, or of whole arrays.

        Raises:
            InputError: As for `unpack`; pixels outside [0, 1] by more than `PIXEL_TOLERANCE`;
                labels outside the classes; NaN or infinite values, also in sample weights.
        """
        parts, labels, weights = self.unpack(as_arrays(batch))
        for images in parts:
            if images.size:
                low, high = images.min(), images.max()  # NaN if any pixel is
                if not (low > -PIXEL_TOLERANCE and high < 1 + PIXEL_TOLERANCE):
                    raise pixels_out_of_range(low, high)
        if labels.size and self._is_one_hot(labels):
            if not np.isfinite(labels).all():
                raise labels_out_of_range(math.nan, math.nan, self.num_classes - 1)
        elif labels.size:
            if self.ignored_label is not None:
                labels = np.where(labels == self.ignored_label, 0, labels)
            low, high = labels.min(), labels.max()
            if not (low >= 0 and high <= self.num_classes - 1):
                raise labels_out_of_range(low, high, self.num_classes - 1)
        if weights is not None and not np.isfinite(weights).all():
            raise _weights_not_finite()

    def assert_valid(self, batch: Any) -> None:
        """Adds the checks of `check` as assertions to the graph being built.

        When executing eagerly it calls `check`.

        Raises:
            InputError: As for `unpack`.
        """
        if tf.executing_eagerly():
            self.check(batch)
            return
        parts, labels, weights = self.unpack(batch)
        for images in map(tf.convert_to_tensor, parts):
            # NaN fails both comparisons.
            inside = (images > -PIXEL_TOLERANCE) & (images < 1 + PIXEL_TOLERANCE)
            hint = "Divide pixels from 0 to 255 by 255 first."
            _assert("pixels in [0, 1]", inside, images, hint)
        labels, last = tf.convert_to_tensor(labels), self.num_classes - 1
        labels = labels if labels.dtype.is_floating else tf.cast(labels, tf.int64)
        if self._is_one_hot(labels):
            inside = _is_finite(labels)
        else:
            if self.ignored_label is not None:
                labels = tf.where(labels == self.ignored_label, tf.zeros_like(labels), labels)
            inside = (labels >= 0) & (labels <= last)
        _assert(f"labels from 0 to {last}", inside, labels)
        if weights is not None:
            weights = tf.convert_to_tensor(weights)
            _assert("sample weights", _is_finite(weights), weights)

    def _is_one_hot(self, labels: Any) -> bool:
        """Whether labels are one-hot or soft, by the rule of `class_numbers`."""
        shape = tf.TensorShape(labels.shape)
        return shape.rank == 2 and shape[-1] == self.num_classes

    def _check_label_type(self, labels: Any) -> None:
        """Raises InputError unless labels have a valid type and, where known, shape."""
        dtype, shape = tf.as_dtype(labels.dtype), tf.TensorShape(labels.shape)
        if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
            raise InputError(f"Expected labels as numbers. Received: {dtype.name}.")
        is_known = shape.rank is not None and shape.rank > 1
        if is_known and (shape.rank > 2 or shape[-1] not in (None, 1, self.num_classes)):
            raise InputError(
                f"Expected labels of shape (n,), or one-hot (n, {self.num_classes}). "
                f"Received: shape {tuple(shape)}."
            )


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Translates TensorFlow's report of a failed check into an InputError.

    Raises:
        InputError: The failed check, with the message of `check_images` or `check_examples`.
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = _failed_check(error.message)
        if found is None:
            raise
        raise found from None  # TensorFlow's own message is a page about graphs


def _failed_check(message: str) -> InputError | None:
    """The failed check that a TensorFlow message reports, or None for another error."""
    if raised := _RAISED.search(message):
        return InputError(raised[1])
    asserted = _ASSERTED.search(message)
    if not asserted:
        return None
    what, last, *ends = asserted.groups()
    low, high = map(float, ends)
    if what == "pixels":
        if low > -PIXEL_TOLERANCE and high < 1 + PIXEL_TOLERANCE:  # so some pixel is NaN
            low = math.nan
        return pixels_out_of_range(low, high)
    if what == "labels":
        if low >= 0 and high <= int(last):
            low = math.nan
        low, high = (int(end) if end.is_integer() else end for end in (low, high))
        return labels_out_of_range(low, high, int(last))
    return _weights_not_finite()


def _weights_not_finite() -> InputError:
    """The error for sample weights that are not finite."""
    return InputError("Expected finite sample weights. Received: NaN or infinite values.")


def _assert(what: str, inside: Any, values: tf.Tensor, *hint: str) -> None:
    """Asserts that all of `inside` holds; the message gives the range of the values."""
    low, high = tf.reduce_min(values), tf.reduce_max(values)
    text = f"Expected finite {what}. Received: from"
    tf.debugging.Assert(tf.reduce_all(inside), [text, low, "to", high, *hint])


def _is_finite(values: tf.Tensor) -> tf.Tensor:
    """Where values are finite; integers always are."""
    return tf.math.is_finite(values) if values.dtype.is_floating else tf.ones_like(values, tf.bool)


def _check_pixel_type(images: Any) -> None:
    """Raises InputError unless pixels are floating-point numbers."""
    dtype = tf.as_dtype(images.dtype)
    if not dtype.is_floating:
        hint = " Divide by 255 first." if dtype.is_integer else ""
        raise InputError(f"Expected float pixels in [0, 1]. Received: {dtype.name}.{hint}")


def as_arrays(batch: Any) -> tuple[Any, Any, Any]:
    """A batch of arrays or any library's tensors, split as Keras does, as NumPy arrays.

    Args:
        batch: (images, labels) or (images, labels, sample weights); images may be a structure.

    Returns:
        Images, labels and sample weights; None for a missing part.
    """
    images, *others = keras.utils.unpack_x_y_sample_weight(batch)
    images = keras.tree.map_structure(_as_array, images)
    labels, weights = (None if part is None else _as_array(part) for part in others)
    return images, labels, weights


def _as_array(value: Any) -> np.ndarray:
    """A value as a NumPy array; PyTorch's tensors are copied from their device."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
