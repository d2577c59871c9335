"""Beginning from the weights of another run."""

import itertools
import os
from typing import Any

import keras

from parl_tf.defences.base import Ensemble
from parl_tf.errors import InputError
from parl_tf.graphs.weights import copy_weights
from parl_tf.training.config import Start
from parl_tf.training.folders import load_model


def begin_from(ensemble: Ensemble, path: str | os.PathLike) -> Start:
    """Copies the weights of a trained ensemble's members into those of another.

    Args:
        ensemble: What is to begin from them.
        path: A run folder, or a Keras file with an ensemble.

    Returns:
        Where they came from; for a run folder with its method and seed.

    Raises:
        InputError: Another network, number of classes or number of members.
        MissingFileError: Nothing there, or a run that is not finished.
        UnreadableFileError: A file that cannot be read.
    """
    start, config = load_model(path)
    if not isinstance(start, Ensemble):
        raise InputError(f"Expected an ensemble to start from. Received: one classifier, {path}.")
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
    network = config.recipe.network if config else "not said which"
    for member, begun in pairs:
        if difference := _difference(_anatomy(member), _anatomy(begun)):
            raise InputError(
                f"Expected a start of the same network, input and normalisation. Received: another "
                f"one in {path}, {network}, of this version or an earlier one; they first differ "
                f"in {difference}. Train the start anew by the same recipe and network, or name "
                "its network (--network)."
            )
    for member, begun in pairs:
        copy_weights(begun, member)
    if config is None:
        return Start(run=str(path))
    return Start(run=str(path), method=config.method, seed=config.seed)


def _difference(expected: list, found: list) -> str | None:
    """The first part in which two networks differ, as text; None if there is none."""
    for ours, theirs in itertools.zip_longest(expected, found, fillvalue="nothing"):
        if ours != theirs:
            return f"{_brief(ours, theirs)} here, {_brief(theirs, ours)} there"
    return None


def _brief(part: Any, other: Any) -> str:
    """A part of a network: a layer with what another one of its class has otherwise."""
    if not isinstance(part, tuple) or len(part) != 3 or not isinstance(part[1], dict):
        return str(part)[:80]
    settings = other[1] if isinstance(other, tuple) and other[0] == part[0] else part[1]
    apart = {k: v for k, v in part[1].items() if settings.get(k) != v}
    return f"{part[0]} {apart}" if apart else str(part[0])


def _anatomy(network: keras.Model) -> list:
    """What two networks whose weights can be exchanged have in common."""
    found: list = [network.input_shape]
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            found.append(_anatomy(layer))
            continue
        # Names, and what only decides how weights begin or are trained, may differ.
        apart: tuple[str, ...] = ("_initializer", "_regularizer", "_constraint")
        apart += ("name", "seed", "trainable", "synchronized")
        config = {k: str(v) for k, v in layer.get_config().items() if not k.endswith(apart)}
        shapes = [tuple(weight.shape) for weight in layer.weights]
        found.append((type(layer).__name__, config, shapes))
    return found
