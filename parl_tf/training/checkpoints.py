"""Continuing a training that was interrupted, after its last whole epoch."""

import logging
import math
import os
import pathlib
from typing import Any

import keras

from parl_tf.defences.base import Ensemble
from parl_tf.errors import MissingFileError, UnreadableFileError
from parl_tf.training.config import RunConfig
from parl_tf.training.folders import (
    check_checkpoint,
    cut_history,
    find_checkpoints,
    read_config,
    read_model,
    save_checkpoint,
)

_log = logging.getLogger(__name__)


class Checkpoints(keras.callbacks.Callback):
    """Leaves the model, with its optimizer, in a run folder at the end of each epoch.

    An epoch whose loss is not finite leaves the checkpoint before it. Put it after all other
    callbacks: what they do at the end of an epoch is not done again when a run continues.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        super().__init__()
        self._folder = pathlib.Path(folder)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves, and then removes the checkpoint before."""
        if math.isfinite((logs or {}).get("loss", 0.0)):
            save_checkpoint(self._folder, self.model, epoch + 1)


def continue_run(folder: str | os.PathLike, config: RunConfig) -> tuple[Ensemble, int] | None:
    """Takes up an unfinished run where its last checkpoint left it.

    Lines of the history beyond it are dropped. Other reasons to begin anew than a folder without
    checkpoints are logged as warnings.

    Args:
        folder: The run folder, or where one is to be.
        config: What the run is to be; that in the folder must be equal, up to versions and commit.

    Returns:
        The ensemble, compiled as it was, and the number of epochs that it has been trained for;
        None if there is nothing to continue.
    """
    folder = pathlib.Path(folder)
    checkpoints = find_checkpoints(folder)
    if not checkpoints:
        return None
    try:
        begun = read_config(folder)
    except (MissingFileError, UnreadableFileError):
        return None
    if others := begun.differences(config):
        _log.warning(
            "%s: beginning anew, because what was begun there has another %s.",
            folder,
            " and ".join(others),
        )
        return None
    for epochs in sorted(checkpoints, reverse=True):
        try:
            check_checkpoint(checkpoints[epochs])
            ensemble = _read_ensemble(checkpoints[epochs])
            cut_history(folder, epochs)
        except UnreadableFileError as error:
            _log.warning("%s: no continuing after epoch %d. %s", folder, epochs, error)
        else:
            versions = dict(begun.versions), dict(config.versions)
            if versions[0] != versions[1]:
                _log.warning("%s was begun with other versions: %s, now %s.", folder, *versions)
            elif begun.commit != config.commit:
                commits = begun.commit or "no known one", config.commit or "no known one"
                _log.info("%s was begun with another commit: %s, now %s.", folder, *commits)
            return ensemble, epochs
    _log.warning("%s: beginning anew.", folder)
    return None


def _read_ensemble(file: pathlib.Path) -> Ensemble:
    """The ensemble in a checkpoint, with its optimizer."""
    ensemble = read_model(file, compiled=True)
    if not isinstance(ensemble, Ensemble) or not getattr(ensemble, "compiled", False):
        raise UnreadableFileError(f"{file} does not hold an ensemble with its optimizer.")
    return ensemble
