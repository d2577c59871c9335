"""The user's own examples, in any of the forms that Keras takes them in, as arrays."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parl_tf.data.datasets import Dataset
from parl_tf.data.examples import Split, array_of
from parl_tf.errors import InputError

Examples = Split | Dataset | tuple[Any, Any] | Iterable[tuple[Any, Any]]
"""Images and labels: a `Split`; one part of a `Dataset`; a pair of arrays (images, labels); or a
`tf.data.Dataset`, a `keras.utils.PyDataset` or another iterable of such pairs, which may be batches
or single examples, and which ends."""

_FORMS = (
    "a parl_tf.Split, a pair (images, labels), or a finite tf.data.Dataset or other iterable of "
    "such pairs"
)
_MOST_BYTES = 1 << 33  # of images that are read from what may never end


def as_arrays(data: Examples, part: str) -> tuple[Any, Any]:
    """Images and labels of examples in any form; their values are not looked at.

    Args:
        data: The examples. What is iterated over is read to its end, into memory.
        part: Which part of a `Dataset` is meant, "train" or "test".

    Returns:
        Images and labels, arrays or what NumPy makes arrays of.

    Raises:
        InputError: Something else, something that never ends, or images of several shapes.
    """
    if isinstance(data, Dataset):
        data = getattr(data, part)
    if isinstance(data, Split):
        return data.images, data.labels
    if isinstance(data, tuple) or (isinstance(data, list) and not _are_pairs(data)):
        return _pair(data)
    parts = list(_parts(data))
    images, labels = ([part[index] for part in parts] for index in (0, 1))
    if not parts:
        raise InputError("Expected examples. Received: data that ended before the first one.")
    if len({(array.shape[1:], array.ndim) for array in images}) > 1:
        shapes = sorted({array.shape[1:] for array in images})
        raise InputError(f"Expected images of one shape. Received: {shapes[:5]}.")
    return np.concatenate(images), np.concatenate(labels)


def images_of(data: Any) -> Any:
    """Images alone: those of examples as `as_arrays` takes them, or batches of images.

    Args:
        data: A `Split`; a `Dataset`, whose test part is meant; a `tf.data.Dataset` or a
            `keras.utils.PyDataset` of images or of (images, labels); anything else is returned
            as it is.

    Raises:
        InputError: Something that never ends, or images of several shapes.
    """
    if isinstance(data, Split | Dataset):
        return as_arrays(data, "test")[0]
    if not isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
        return data
    return as_arrays(map(_unlabelled, _elements(data)), "test")[0]


def _unlabelled(element):
    """An element without labels, as an element with some."""
    images = element[0] if isinstance(element, tuple | list) else element
    return images, np.zeros(np.shape(images)[:-3], int)


def _are_pairs(data: list) -> bool:
    """Whether a list is one of pairs, not itself a pair of arrays."""
    if bool(data) and all(isinstance(element, tuple) for element in data):
        return True
    lists = [element for element in data if isinstance(element, list)]
    # Two lists of two could be anything; more, or images of three dimensions in front, could not.
    return bool(data) and len(lists) == len(data) and all(_is_pair_list(each) for each in lists)


def _is_pair_list(element: list) -> bool:
    """Whether a list is an image or a batch of them, as an array, and what belongs to it."""
    return len(element) == 2 and np.ndim(element[0]) >= 3 and hasattr(element[0], "shape")


def _elements(data: Any) -> Iterable[Any]:
    """What data are iterated over by.

    Raises:
        InputError: Nothing that can be iterated over, or something that says it never ends.
    """
    if (
        isinstance(data, tf.data.Dataset)
        and int(data.cardinality()) == tf.data.INFINITE_CARDINALITY
    ):
        raise InputError(
            "Expected data that end. Received: a tf.data.Dataset that repeats for ever. Leave "
            "out its repeat(), or take a number of its elements: data.take(n)."
        )
    if isinstance(data, keras.utils.PyDataset):  # its own iteration does not end
        if data.num_batches is None:
            raise InputError("Expected data that end. Received: a PyDataset of endless batches.")
        return (data[index] for index in range(data.num_batches))
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        hint = " parl_tf.load_dataset loads data sets by name." if isinstance(data, str) else ""
        raise InputError(
            f"Expected images and labels: {_FORMS}. Received: {_described(data)}.{hint}"
        )
    if hasattr(data, "shape"):
        raise InputError(
            f"Expected images and labels: {_FORMS}. Received: {_described(data)}, without labels."
        )
    return data


def _parts(data: Any) -> Iterator[tuple[Any, Any]]:
    """Batches of images and labels, whatever they come in.

    Raises:
        InputError: What `_elements` and `_pair` refuse, or no end in sight.
    """
    elements = _elements(data)
    most = _MOST_BYTES if _may_never_end(data) else float("inf")
    size = 0
    for element in elements:
        images, labels = _pair(element)
        images, labels = array_of("images", images), array_of("labels", labels)
        # A single example has a label for itself; several gray ones have as many as images.
        if images.ndim == 3 and labels.shape != images.shape[:1]:
            images, labels = images[np.newaxis], labels[np.newaxis]
        if images.ndim < 3 or labels.ndim < 1:
            raise InputError(
                "Expected images (n, height, width, channels) and labels (n,), or (height, width, "
                f"channels) and one label. Received: shapes {images.shape} and {labels.shape}."
            )
        size += images.nbytes
        if size > most:
            raise InputError(
                f"Expected data that end within {_MOST_BYTES >> 30} GiB of images, which are held "
                "in memory. Received: more, perhaps without end. Take a number of elements: "
                "data.take(n) of a tf.data.Dataset, itertools.islice(data, n) of a generator."
            )
        yield images, labels


def _may_never_end(data: Any) -> bool:
    """Whether nobody knows how long data are."""
    if isinstance(data, tf.data.Dataset):
        return int(data.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    return not hasattr(data, "__len__")


def _pair(element: Any) -> tuple[Any, Any]:
    """Images and labels of one element.

    Raises:
        InputError: It is no pair, or one in which they cannot be told apart.
    """
    if isinstance(element, Mapping):
        names = ", ".join(map(str, element))
        raise InputError(
            f"Expected pairs (images, labels). Received: a mapping of {names}. tensorflow-datasets "
            "gives pairs with as_supervised=True."
        )
    if not isinstance(element, tuple | list) or len(element) != 2:
        number = (
            f"{len(element)} parts" if isinstance(element, tuple | list) else _described(element)
        )
        hint = ""
        if isinstance(element, tuple | list) and len(element) == 3:
            hint = " Sample weights are not used here: leave them out."
        raise InputError(f"Expected pairs (images, labels). Received: {number}.{hint}")
    first, second = element
    if isinstance(first, tuple) and len(first) == 2 and _rank(first[0]) in (3, 4):
        raise InputError(
            "Expected one pair (images, labels). Received: a pair of pairs, such as "
            "keras.datasets gives for training and test. Give one of them."
        )
    if _rank(first) in (1, 2) and _rank(second) == 4:
        raise InputError("Expected images first, then labels. Received: labels, then images.")
    return first, second


def _rank(value: Any) -> int | None:
    """Number of dimensions of an array, None for what is none."""
    return len(value.shape) if hasattr(value, "shape") else None


def _described(value: Any) -> str:
    """A value in few words."""
    if hasattr(value, "shape"):
        return f"an array of shape {tuple(value.shape)}"
    if isinstance(value, str | bytes | int | float | type(None)):
        return f"{value!r}"[:100]
    return f"an object of type {type(value).__name__}"
