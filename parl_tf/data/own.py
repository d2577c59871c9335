"""The user's own data, in every form that Keras accepts, as arrays."""

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
finite `tf.data.Dataset`, `keras.utils.PyDataset` or other iterable of such pairs, each a batch or a
single example."""

_FORMS = (
    "a parl_tf.Split, a pair (images, labels), or a finite tf.data.Dataset or other iterable of "
    "such pairs"
)
_MOST_BYTES = 1 << 33  # of images, if the data may be endless


def as_arrays(data: Examples, part: str) -> tuple[Any, Any]:
    """Images and labels of examples in any form; their values are not checked.

    Args:
        data: The examples. An iterable is read into memory completely.
        part: The part of a `Dataset` to use, "train" or "test".

    Returns:
        Images and labels, as arrays or objects that NumPy converts to arrays.

    Raises:
        InputError: Another kind of object, endless data, or images of several shapes.
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
        raise InputError("Expected at least one example. Received: empty data.")
    if len({(array.shape[1:], array.ndim) for array in images}) > 1:
        shapes = sorted({array.shape[1:] for array in images})
        raise InputError(f"Expected images of one shape. Received: {shapes[:5]}.")
    return np.concatenate(images), np.concatenate(labels)


def images_of(data: Any) -> Any:
    """The images of examples, or of unlabelled batches.

    Args:
        data: A `Split`; a `Dataset` (its test part); a `tf.data.Dataset` or a
            `keras.utils.PyDataset` of images or of (images, labels). Anything else is returned
            unchanged.

    Raises:
        InputError: Endless data, or images of several shapes.
    """
    if isinstance(data, Split | Dataset):
        return as_arrays(data, "test")[0]
    if not isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
        return data
    return as_arrays(map(_unlabelled, _elements(data)), "test")[0]


def _unlabelled(element: Any) -> tuple[Any, np.ndarray]:
    """The images of an element, labelled or not, with zeros for labels."""
    images = element[0] if isinstance(element, tuple | list) else element
    return images, np.zeros(np.shape(images)[:-3], int)


def _are_pairs(data: list) -> bool:
    """Whether a list holds pairs, rather than being a pair of arrays itself."""
    if bool(data) and all(isinstance(element, tuple) for element in data):
        return True
    lists = [element for element in data if isinstance(element, list)]
    # Two lists of two are ambiguous unless each begins with an image.
    return bool(data) and len(lists) == len(data) and all(_is_pair_list(each) for each in lists)


def _is_pair_list(element: list) -> bool:
    """Whether a list holds an image or batch of images, as an array, and its label or labels."""
    return len(element) == 2 and np.ndim(element[0]) >= 3 and hasattr(element[0], "shape")


def _elements(data: Any) -> Iterable[Any]:
    """The elements of data.

    Raises:
        InputError: Data that cannot be iterated over, or are known to be endless.
    """
    if (
        isinstance(data, tf.data.Dataset)
        and int(data.cardinality()) == tf.data.INFINITE_CARDINALITY
    ):
        raise InputError(
            "Expected finite data. Received: a tf.data.Dataset that repeats forever. Leave out "
            "its repeat(), or limit it with data.take(n)."
        )
    if isinstance(data, keras.utils.PyDataset):  # its own iterator is endless
        if data.num_batches is None:
            raise InputError("Expected finite data. Received: a PyDataset with endless batches.")
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
    """Batches of images and labels, from data in any form.

    Raises:
        InputError: As for `_elements` and `_pair`, or too many bytes of possibly endless data.
    """
    elements = _elements(data)
    most = _MOST_BYTES if _may_be_endless(data) else float("inf")
    size = 0
    for element in elements:
        images, labels = _pair(element)
        images, labels = array_of("images", images), array_of("labels", labels)
        # Three dimensions are one example, or with a label for each row, grayscale images.
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
                f"Expected at most {_MOST_BYTES >> 30} GiB of images, which are held in memory. "
                "Received: more, and possibly endless data. Limit a tf.data.Dataset with "
                "data.take(n), a generator with itertools.islice(data, n)."
            )
        yield images, labels


def _may_be_endless(data: Any) -> bool:
    """Whether the length of data is unknown."""
    if isinstance(data, tf.data.Dataset):
        return int(data.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    return not hasattr(data, "__len__")


def _pair(element: Any) -> tuple[Any, Any]:
    """Images and labels of one element.

    Raises:
        InputError: It is not a pair, or its order is not (images, labels).
    """
    if isinstance(element, Mapping):
        names = ", ".join(map(str, element))
        raise InputError(
            f"Expected pairs (images, labels). Received: a mapping of {names}. tensorflow-datasets "
            "returns pairs with as_supervised=True."
        )
    if not isinstance(element, tuple | list) or len(element) != 2:
        number = (
            f"{len(element)} parts" if isinstance(element, tuple | list) else _described(element)
        )
        hint = ""
        if isinstance(element, tuple | list) and len(element) == 3:
            hint = " Leave out sample weights, which are not used here."
        raise InputError(f"Expected pairs (images, labels). Received: {number}.{hint}")
    first, second = element
    if isinstance(first, tuple) and len(first) == 2 and _rank(first[0]) in (3, 4):
        raise InputError(
            "Expected one pair (images, labels). Received: a pair of pairs, such as keras.datasets "
            "returns for training and test. Pass one of them."
        )
    if _rank(first) in (1, 2) and _rank(second) == 4:
        raise InputError("Expected images first, then labels. Received: labels, then images.")
    return first, second


def _rank(value: Any) -> int | None:
    """Number of dimensions of an array; None for anything else."""
    return len(value.shape) if hasattr(value, "shape") else None


def _described(value: Any) -> str:
    """A short description of a value."""
    if hasattr(value, "shape"):
        return f"an array of shape {tuple(value.shape)}"
    if isinstance(value, str | bytes | int | float | type(None)):
        return f"{value!r}"[:100]
    return f"an object of type {type(value).__name__}"
