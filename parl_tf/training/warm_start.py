"""Starting from the weights of another run."""

import dataclasses
import itertools
import os
import pathlib
from typing import Any

import keras

from parl_tf.data.datasets import Dataset
from parl_tf.defences.base import Ensemble
from parl_tf.errors import ExistingRunError, InputError, MissingFileError, UnreadableFileError
from parl_tf.graphs.nodes import copy_weights
from parl_tf.runtime.onednn import check_rounding
from parl_tf.training.config import RunConfig, Start
from parl_tf.training.folders import (
    MODEL,
    check_checkpoint,
    find_checkpoints,
    is_finished,
    load_model,
    read_config,
    read_model,
)


def begin_from(ensemble: Ensemble, path: str | os.PathLike) -> Start:
    """Copies the weights of a trained ensemble's members into those of another.

    Args:
        ensemble: The ensemble to copy them into.
        path: A run folder, or a Keras file with an ensemble.

    Returns:
        Where they came from; for a run folder, with its method and seed.

    Raises:
        InputError: The network, number of classes or number of members differs.
        MissingFileError: Nothing is there, or the run is not finished.
        UnreadableFileError: The file cannot be read.
    """
    start, config = load_model(path)
    if not isinstance(start, Ensemble):
        raise InputError(
            f"Expected an ensemble to start from. Received: a single classifier, {path}."
        )
    if len(start.members) != len(ensemble.members):
        raise InputError(
            f"Expected {len(ensemble.members)} members to start from. "
            f"Received: {len(start.members)} members in {path}."
        )
    if start.num_classes != ensemble.num_classes:
        raise InputError(
            f"Expected {ensemble.num_classes} classes to start from. "
            f"Received: {start.num_classes} classes in {path}."
        )
    pairs = list(zip(ensemble.members, start.members, strict=True))
    if difference := _first_difference(ensemble, start):
        network = config.recipe.network if config else "unknown"
        raise InputError(
            f"Expected an ensemble of the same network, input and normalisation to start from. "
            f"Received: {path}, network {network} of this version or an earlier one; they first "
            f"differ in {difference}. Train it again with the same recipe and network, or select "
            "its network (--network)."
        )
    for member, trained in pairs:
        copy_weights(trained, member)
    if config is None:
        return Start(run=str(path))
    return Start(run=str(path), method=config.method, seed=config.seed)


def may_have_seen_validation(start: str | os.PathLike, dataset: Dataset) -> bool:
    """Whether an ensemble may have been trained on validation images of a data set.

    Args:
        start: A finished run folder, or a Keras file, which does not say what it was trained on.
        dataset: Data of the run that starts from it.
    """
    if not len(dataset.validation):
        return False
    if not pathlib.Path(start).is_dir():
        return True
    other = read_config(start).dataset
    same = (other.fingerprint, other.seed) == (dataset.fingerprint, dataset.seed)
    return not same or other.validation_examples < len(dataset.validation)


def check_own_start(ensemble: Ensemble, folder: pathlib.Path, config: RunConfig) -> None:
    """Raises unless a folder can hold the ensemble that a run itself trains to start from.

    A finished one there is used as it is. An unfinished one of the same configuration is
    continued; any other is started over, whatever it holds.

    Args:
        ensemble: The ensemble that will start from it.
        folder: Its folder, which need not exist.
        config: Configuration of the run that will start from it.

    Raises:
        ExistingRunError: A finished one is of another training, or one has another network: a
            name may have meant another network in an earlier version.
        InputError: It is deterministic, and was started with oneDNN's kernels on where they are
            off now, or the reverse.
        MissingFileError: There is a model without a configuration.
        UnreadableFileError: A finished one cannot be read.
    """
    finished = is_finished(folder)
    try:
        found = read_config(folder)
    except (MissingFileError, UnreadableFileError):
        if finished:
            raise
        return
    uncompared: dict[str, Any] = {"arguments": {}, "start_from": None}
    others = dataclasses.replace(found, **uncompared).differences(
        dataclasses.replace(
            config, method="unprotected", recipe=config.recipe.of_start, **uncompared
        )
    )
    if not finished and others:
        return
    if others := [name for name in others if name != "devices"]:
        raise ExistingRunError(
            f"{folder} belongs to another training: its {others[0]} differs. "
            "Expected a new folder; nothing was changed."
        )
    if found.deterministic and (finished or find_checkpoints(folder)):
        check_rounding(folder, found.versions)
    start = read_model(folder / MODEL) if finished else _continued(folder)
    if start is not None and (difference := _first_difference(ensemble, start)):
        raise ExistingRunError(
            f"{folder} holds another network, which had the same name in an earlier version; they "
            f"first differ in {difference}. Expected a new folder; nothing was changed. Remove "
            f"{folder} to train its ensemble again."
        )


def _continued(folder: pathlib.Path) -> keras.Model | None:
    """The model that an unfinished run continues from; None if it starts over."""
    checkpoints = find_checkpoints(folder)
    for epochs in sorted(checkpoints, reverse=True):
        try:
            check_checkpoint(checkpoints[epochs])
            return read_model(checkpoints[epochs])
        except UnreadableFileError:  # logged when the run is continued
            continue
    return None


def _first_difference(ensemble: Ensemble, start: keras.Model) -> str | None:
    """The first difference between the members of two ensembles, as text; None if there is none."""
    pairs = zip(ensemble.members, getattr(start, "members", ()), strict=False)
    differences = (_difference(_structure(own), _structure(other)) for own, other in pairs)
    return next(filter(None, differences), None)


def _difference(expected: list, found: list) -> str | None:
    """The first part in which two networks differ, as text; None if there is none."""
    for ours, theirs in itertools.zip_longest(expected, found, fillvalue="nothing"):
        if ours != theirs:
            return f"{_brief(ours, theirs)} here, {_brief(theirs, ours)} there"
    return None


def _brief(part: Any, other: Any) -> str:
    """A part of a network, as text: a layer with the settings in which it differs from another."""
    if not isinstance(part, tuple) or len(part) != 3 or not isinstance(part[1], dict):
        return str(part)[:80]
    settings = other[1] if isinstance(other, tuple) and other[0] == part[0] else part[1]
    apart = {k: v for k, v in part[1].items() if settings.get(k) != v}
    return f"{part[0]} {apart}" if apart else str(part[0])


def _structure(network: keras.Model) -> list:
    """What two networks whose weights can be exchanged have in common."""
    found: list = [network.input_shape]
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            found.append(_structure(layer))
            continue
        # Names, and settings that affect only initial weights or training, may differ.
        ignored: tuple[str, ...] = ("_initializer", "_regularizer", "_constraint")
        ignored += ("name", "seed", "trainable", "synchronized")
        config = {k: str(v) for k, v in layer.get_config().items() if not k.endswith(ignored)}
        shapes = [tuple(weight.shape) for weight in layer.weights]
        found.append((type(layer).__name__, config, shapes))
    return found
