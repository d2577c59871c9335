"""Inputs of `fit` whose batches are checked on their way into the graph.

XLA drops assertions from a graph, and Keras turns XLA on by itself where there is a GPU. An input
pipeline always runs on the CPU and without XLA: a check in it is never dropped.
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
    """What to give to Keras instead of `x`, so that each batch is checked on its way.

    Arrays are checked here and now. Of anything else nothing is read: its batches are checked
    when Keras reads them, in the same order and as many.

    Args:
        check: What the model expects of its batches.
        x: As for Keras's `fit`.
        y: As for Keras's `fit`.
        sample_weight: As for Keras's `fit`.

    Returns:
        `x` or what stands for it, and whether its batches are checked. They are not where the
        input pipeline is out of reach: in data sets that are distributed already, and in those of
        other libraries.

    Raises:
        InputError: Arrays, or batches by their specification, that cannot be used.
    """
    if isinstance(x, tf.data.Dataset):
        check.unpack(x.element_spec)

        @tf.autograph.experimental.do_not_convert
        def asserted(*batch):
            check.assert_valid(batch)
            return batch

        # Synchronous: no batch is read before Keras asks for it.
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
    """The batches of another `PyDataset`, checked where they are made.

    Args:
        batches: The other one; how many workers make its batches is kept.
        check: What the model expects of its batches.
    """

    def __init__(self, batches: keras.utils.PyDataset, check: BatchCheck) -> None:
        super().__init__(batches.workers, batches.use_multiprocessing, batches.max_queue_size)
        self._batches = batches
        self._check = check

    def __getitem__(self, index: int) -> Any:
        """A batch.

        Raises:
            InputError: What the check refuses.
        """
        batch = self._batches[index]
        self._check.check(batch)
        return batch

    @property
    def num_batches(self) -> int | None:
        """Number of batches, or None if there is no end of them."""
        return self._batches.num_batches

    def on_epoch_begin(self) -> None:
        """Passes it on."""
        self._batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Passes it on."""
        self._batches.on_epoch_end()


def _checked_generator(check: BatchCheck, batches: Generator) -> Generator[Any, None, None]:
    """The batches of a generator, which is not closed with this one."""
    for batch in batches:
        check.check(batch)
        yield batch
