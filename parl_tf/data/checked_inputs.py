"""Inputs of `fit` whose batches are checked before they enter the graph.

XLA drops assertions from a graph, and Keras enables XLA on its own where there is a GPU. An input
pipeline always runs on the CPU without XLA, so a check in it is never dropped.
"""

import types
from collections.abc import Generator
from typing import Any

import keras
import tensorflow as tf

from parl_tf.data.batch_checks import BatchCheck


def checked_input(
    check: BatchCheck, x: Any, y: Any = None, sample_weight: Any = None
) -> tuple[Any, bool]:
    """A replacement for `x` that checks each batch as Keras reads it.

    Arrays are checked at once. Nothing else is read here: its batches are checked when Keras reads
    them, in the same order and number.

    Args:
        check: What the model expects of its batches.
        x: As for Keras's `fit`.
        y: As for Keras's `fit`.
        sample_weight: As for Keras's `fit`.

    Returns:
        `x` or its replacement, and whether its batches are checked. They are not where the input
        pipeline is out of reach: in data sets that are already distributed, and in those of other
        libraries.

    Raises:
        InputError: Arrays, or a specification of batches, that cannot be used.
    """
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
