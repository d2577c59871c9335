"""The estimated time that a training run still takes."""

import datetime
import logging
import time
from typing import Any

import keras

_log = logging.getLogger(__name__)


class TimeLeft(keras.callbacks.Callback):
    """Logs the estimated time left after each epoch.

    The first epoch, which includes tracing the graphs, counts only while it is the only one.

    Args:
        name: Name of the run in the log.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._ends: list[float] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._ends = [time.monotonic()]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the time left."""
        self._ends.append(time.monotonic())
        epochs = self.params["epochs"]
        if epoch + 1 < epochs:
            known = self._ends[1:] if len(self._ends) > 2 else self._ends
            per_epoch = (known[-1] - known[0]) / (len(known) - 1)
            left = datetime.timedelta(seconds=round(per_epoch * (epochs - epoch - 1)))
            _log.info(
                "%s: %d of %d epochs done, about %s left.", self._name, epoch + 1, epochs, left
            )
