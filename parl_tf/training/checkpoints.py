"""Checkpoints after each epoch, and continuing an interrupted run from the last one."""

import logging
import math
import os
import pathlib
from typing import Any

import keras

from parl_tf.defences.base import Ensemble
from parl_tf.errors import MissingFileError, UnreadableFileError
from parl_tf.provenance import are_same_versions
from parl_tf.runtime.onednn import check_rounding
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
    """Saves the model, with its optimizer, to a run folder at the end of each epoch.

    An epoch whose loss is not finite is not saved. Put this callback after all others: what they
    do at the end of an epoch is not repeated when a run continues.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        super().__init__()
        self._folder = pathlib.Path(folder)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves a checkpoint, and removes all but the last two."""
        if math.isfinite((logs or {}).get("loss", 0.0)):
            save_checkpoint(self._folder, self.model, epoch + 1)


def continue_run(folder: str | os.PathLike, config: RunConfig) -> tuple[Ensemble, int] | None:
    """Restores an unfinished run from its last usable checkpoint.

    Lines of the history beyond it are dropped. A warning is logged for a checkpoint that cannot be
    used, and for checkpoints of another configuration.

    Args:
        folder: The run folder, which need not exist.
        config: Configuration of the run; the folder's must equal it, except for versions and
            commit.

    Returns:
        The ensemble, compiled as before, and the number of epochs that it has been trained for;
        None if there is nothing to continue.

    Raises:
        InputError: The run is deterministic, and was started with oneDNN's kernels on where they
            are off now, or the reverse.
    """
    folder = pathlib.Path(folder)
    checkpoints = find_checkpoints(folder)
    if not checkpoints:
        return None
    try:
        stored = read_config(folder)
    except (MissingFileError, UnreadableFileError):
        return None
    if others := stored.differences(config):
        _log.warning(
            "%s: cannot continue its checkpoints, because the run there differs in its %s.",
            folder,
            " and ".join(others),
        )
        return None
    if config.deterministic:
        check_rounding(folder, stored.versions)
    for epochs in sorted(checkpoints, reverse=True):
        try:
            check_checkpoint(checkpoints[epochs])
            ensemble = _read_ensemble(checkpoints[epochs])
            cut_history(folder, epochs)
        except UnreadableFileError as error:
            _log.warning("%s: cannot continue after epoch %d. %s", folder, epochs, error)
        else:
            versions = dict(stored.versions), dict(config.versions)
            if not are_same_versions(*versions):
                _log.warning("%s was started with other versions: %s, now %s.", folder, *versions)
            elif stored.commit != config.commit:
                commits = stored.commit or "unknown", config.commit or "unknown"
                _log.info("%s was started with another commit: %s, now %s.", folder, *commits)
            return ensemble, epochs
    _log.warning("%s: none of its checkpoints can be continued.", folder)
    return None


def _read_ensemble(file: pathlib.Path) -> Ensemble:
    """The ensemble in a checkpoint, with its optimizer."""
    ensemble = read_model(file, compiled=True)
    if not isinstance(ensemble, Ensemble) or not getattr(ensemble, "compiled", False):
        raise UnreadableFileError(f"{file} does not hold an ensemble with its optimizer.")
    return ensemble
