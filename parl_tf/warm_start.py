"""Beginning from the weights of another run."""

import os
from typing import Any

import keras

from parl_tf.defences.base import Ensemble
from parl_tf.errors import InputError
from parl_tf.runs import load_model
from parl_tf.weights import copy_weights


def begin_from(ensemble: Ensemble, path: str | os.PathLike) -> dict[str, Any]:
    """Copies the weights of a trained ensemble's members into those of another.

    Args:
        ensemble: What is to begin from them.
        path: A run folder, or a Keras file with an ensemble.

    Returns:
        Where they came from: `run` and, for a run folder, its `method` and `seed`.

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
    config = config or {}
    if any(_anatomy(member) != _anatomy(begun) for member, begun in pairs):
        raise InputError(
            f"Expected a start of the same network, input and normalisation. Received: another "
            f"one in {path}, {config.get('recipe', {}).get('network', 'not said which')}. Train "
            "the start by the same recipe and network, or name its network (--network)."
        )
    for member, begun in pairs:
        copy_weights(begun, member)
    return {"run": str(path), **{key: config[key] for key in ("method", "seed") if key in config}}


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
