"""Inputs of `fit` whose batches are checked before they enter the graph.

XLA drops assertions from a graph, and Keras enables XLA on its own where there is a GPU. An input
pipeline always runs on the CPU without XLA, so a check in it is never dropped.
"""

import itertools
import types
from collections.abc import Generator, Iterable
from typing import Any

import keras
import tensorflow as tf

from parl_tf.data.batch_checks import BatchCheck, as_arrays
from parl_tf.errors import InputError

_PEEKED = 2  # batches, as many as Keras reads to learn their types and shapes


def checked_input(
    check: BatchCheck, x: Any, y: Any = None, sample_weight: Any = None
) -> tuple[Any, bool]:
    """A replacement for `x` that checks each batch as Keras reads it.

    Arrays are checked at once. Other data are checked batch by batch as Keras reads them, in the
    same order and number; no more is read than Keras would have read.

    Args:
        check: What the model expects of its batches.
        x: As for Keras's `fit`.
        y: As for Keras's `fit`.
        sample_weight: As for Keras's `fit`.

    Returns:
        `x` or its replacement, and whether its batches are checked. They are not if the data set is
        already distributed, as its input pipeline is then out of reach.

    Raises:
        InputError: Arrays, or a specification of batches, that cannot be used.
    """
    if _is_of_torch_or_grain(x):
        x = _data_set_of(x)
    if isinstance(x, tf.data.Dataset):
        check.unpack(x.element_spec)

        @tf.autograph.experimental.do_not_convert
        def asserted(*batch: Any) -> tuple[Any, ...]:
            check.assert_valid(batch)
            return batch

        # Synchronous, so that no batch is read before Keras asks for it.
        return x.map(asserted, synchronous=True), True
    if isinstance(x, types.GeneratorType):
        return _checked_generator(check, x), True
    if isinstance(x, keras.utils.PyDataset):
        return CheckedBatches(x, check), True
    if x is not None and all(hasattr(part, "__array__") for part in keras.tree.flatten(x)):
        check.check((x, y, sample_weight))
        return x, True
    return x, False


class CheckedBatches(keras.utils.PyDataset):
    """The batches of another `PyDataset`, checked by the worker that makes them.

    Args:
        batches: The other data set; its number of workers is kept.
        check: What the model expects of its batches.
    """

    def __init__(self, batches: keras.utils.PyDataset, check: BatchCheck) -> None:
        super().__init__(batches.workers, batches.use_multiprocessing, batches.max_queue_size)
        self._batches = batches
        self._check = check

    def __getitem__(self, index: int) -> Any:
        """A batch.

        Raises:
            InputError: As for `BatchCheck.check`.
        """
        batch = self._batches[index]
        self._check.check(batch)
        return batch

    @property
    def num_batches(self) -> int | None:
        """Number of batches, or None if they are endless."""
        return self._batches.num_batches

    def on_epoch_begin(self) -> None:
        """Calls the other data set's."""
        self._batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Calls the other data set's."""
        self._batches.on_epoch_end()


def _checked_generator(check: BatchCheck, batches: Generator) -> Generator[Any, None, None]:
    """The batches of a generator, which stays open when this one is closed."""
    for batch in batches:
        check.check(batch)
        yield batch


def _is_of_torch_or_grain(x: Any) -> bool:
    """Whether Keras treats `x` as a data set of PyTorch or Grain; by names, as Keras does."""
    names, modules = ("DataLoader", "MapDataset", "IterDataset"), ("torch.utils.data", "grain.")
    return any(
        parent.__name__ in names and parent.__module__.startswith(modules)
        for parent in type(x).__mro__
    )


def _data_set_of(batches: Any) -> tf.data.Dataset:
    """A data set of PyTorch or Grain as a TensorFlow one: a pass over one is a pass over the other.

    As in Keras, the first batches are read an additional time. The number of batches is known only
    for PyTorch's data loaders, and only if their own data set knows its length.

    Raises:
        InputError: No batch, or batches that have no type and number of dimensions in common.
    """
    length = len(batches) if hasattr(getattr(batches, "dataset", None), "__len__") else None

    def arrays() -> Iterable[Any]:
        for batch in itertools.islice(batches, length):
            images, *others = as_arrays(batch)
            images = tuple(images) if isinstance(images, list) else images
            yield (images, *(part for part in others if part is not None))

    first = list(itertools.islice(arrays(), _PEEKED))
    if not first:
        raise InputError("Expected batches of images and labels. Received: no batch.")
    signature = keras.tree.map_structure(_common_spec, *first)
    data_set = tf.data.Dataset.from_generator(arrays, output_signature=signature)
    if length is None:
        return data_set
    return data_set.apply(tf.data.experimental.assert_cardinality(length))


def _common_spec(*arrays: Any) -> tf.TensorSpec:
    """The common specification of arrays of several batches, for any number of examples."""
    if any(not array.shape for array in arrays):
        raise InputError("Expected batches of images and labels. Received: single examples.")
    spec, *others = (tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in arrays)
    common = spec.most_specific_common_supertype(others)
    if common is None:
        raise InputError(f"Expected batches of one kind. Received: {[spec, *others]}.")
    return common
