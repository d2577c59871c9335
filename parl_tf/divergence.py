"""Stopping a training whose loss is not a number any more."""

import math
from typing import Any

import keras

from parl_tf.errors import DivergedError


class StopWhenDiverged(keras.callbacks.Callback):
    """Ends `fit` with an error at the first step whose loss is infinite or NaN.

    Nothing is written for the epoch that it happens in: the checkpoint before it stays.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remembers the epoch, for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the mean loss of the epoch so far.

        Raises:
            DivergedError: It is not finite.
        """
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise DivergedError(
                f"The loss became {loss} in epoch {self._epoch + 1}, step {batch + 1}. The "
                "checkpoint of the epoch before, if there was one, is kept. Expected a smaller "
                f"learning rate than {float(self.model.optimizer.learning_rate):.3g}, perhaps."
            )
