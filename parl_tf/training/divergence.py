"""Stopping training when it diverges."""

import math
from typing import Any, NoReturn

import keras
import numpy as np

from parl_tf.errors import DivergedError


class StopWhenDiverged(keras.callbacks.Callback):
    """Ends `fit` with an error when the loss or a weight becomes infinite or NaN.

    The loss is checked after each step, the weights after each epoch. Put this callback before
    those that write: then nothing is written for that epoch, and the previous checkpoint is kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remembers the epoch, for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks the mean loss of the epoch so far.

        Raises:
            DivergedError: It is not finite.
        """
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            step = f"epoch {self._epoch + 1}, step {batch + 1}"
            # Only the package's own ensembles have this attribute.
            if getattr(self.model, "inputs_checked", False):
                where = (
                    "The images, labels and sample weights of that batch and of all earlier ones "
                    "are valid: the training itself diverged."
                )
            else:
                where = (
                    "The batches of this data set cannot be checked during training: search batch "
                    f"{batch + 1} of that epoch for NaN, pixels outside [0, 1] (divide by 255 "
                    "first) and labels that are not classes."
                )
            self._end(f"The loss became {loss} in {step}. {where}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks the weights, as the last loss was computed before the last update.

        Raises:
            DivergedError: A weight is not finite.
        """
        for variable in self.model.variables:
            is_float = variable.dtype.startswith(("float", "bfloat"))
            if is_float and not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
                self._end(f"{variable.path} became infinite or NaN in epoch {epoch + 1}.")

    def _end(self, what: str) -> NoReturn:
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        raise DivergedError(
            f"{what} Try a learning rate below {rate:.3g}. The previous epoch's checkpoint, if "
            "any, is kept."
        )
