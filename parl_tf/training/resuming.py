"""Continuing a run as its folder says it was begun."""

import os
from collections.abc import Sequence
from numbers import Real
from typing import Any

import keras

from parl_tf.data.datasets import load_dataset
from parl_tf.defences.base import Ensemble
from parl_tf.defences.former_arguments import completed
from parl_tf.errors import ExistingRunError, InputError, UnreadableFileError
from parl_tf.runtime.determinism import enable_determinism, is_deterministic
from parl_tf.runtime.devices import spread_over
from parl_tf.training.fitting import OWN_START, build_ensemble, train
from parl_tf.training.folders import is_finished, read_config
from parl_tf.training.recipes import PAPER, Recipe

_MOST_DEVICES = 256


def resume(
    run: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback = (),
    verbose: str | int = "auto",
) -> Ensemble:
    """Continues a training as it was begun, after its last whole epoch.

    If it was begun with determinism enabled, that is enabled for this process too, so TensorFlow
    must not have computed anything in it yet. It is trained on as many devices as before.

    Args:
        run: The run folder.
        data_dir: As for `load_dataset`.
        callbacks: As for `train`; they are not part of what a folder holds.
        verbose: As for `fit`.

    Returns:
        The trained ensemble.

    Raises:
        ExistingRunError: The run is finished, another process is at it, or none of its
            checkpoints can be continued.
        InputError: The data are not those that it was begun on; determinism is enabled in this
            process and was not there; or it was there and can no longer be enabled here.
        MissingFileError: No run folder, no prepared data, or not what the run began from.
        UnreadableFileError: The configuration in the folder cannot be used.
        DivergedError: The loss became infinite or NaN.

    Example:
        >>> ensemble = parl_tf.resume("runs/interrupted", verbose=0)
        >>> model, config = parl_tf.load_model("runs/interrupted")
    """
    config = completed(read_config(run))
    if is_finished(run):
        raise ExistingRunError(f"The run in {run} is finished; there is nothing to resume.")
    devices = config.get("devices")
    if type(devices) is not int or not 1 <= devices <= _MOST_DEVICES:
        raise UnreadableFileError(f"{run} does not say how many devices it is trained on.")
    _match_determinism(run, config.get("deterministic"))  # before anything is computed
    with spread_over(devices):
        return _resume(run, config, data_dir, callbacks, verbose)


def _resume(run, config, data_dir, callbacks, verbose):
    """Continues a run of such a configuration."""
    try:
        given = _given(config)
        recorded = config["dataset"]
        cut = {name: recorded[name] for name in ("train_examples", "validation_examples")}
        if any(type(number) is not int for number in cut.values()):
            raise TypeError(f"numbers of examples: {cut}")
        fingerprint = recorded["fingerprint"]
        dataset = load_dataset(recorded["name"], data_dir=data_dir, seed=recorded["seed"], **cut)
        _check(config["method"], dataset, given)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UnreadableFileError(
            f"{run} does not say in its config.json how it is trained: {error!r}"
        ) from error
    if dataset.fingerprint != fingerprint:
        raise InputError(
            f"Expected the data that {run} was begun on, of fingerprint {fingerprint}. "
            f"Received: {dataset.fingerprint}."
        )
    return train(
        config["method"],
        dataset,
        run,
        callbacks=callbacks,
        verbose=verbose,
        begin_anew=False,
        **given,
    )


def _check(method, dataset, given):
    """Raises unless an ensemble can be made of a configuration."""
    options = {name: given[name] for name in ("recipe", "num_members", "seed")}
    build_ensemble(method, dataset, **options, **given["arguments"])


def _given(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `train` that a configuration says."""
    recipe = dict(config["recipe"])
    decay_at = recipe.pop("decay_at")
    for name, value in recipe.items():
        kind = type(getattr(PAPER, name))
        if isinstance(value, bool) or not isinstance(value, kind if kind in (int, str) else Real):
            raise TypeError(f"{name} of the recipe: {value!r}")
    started, num_members = config["start_from"], config["num_members"]
    if type(num_members) is not int or not 2 <= num_members <= 1000:
        raise ValueError(f"num_members: {num_members!r}")
    arguments = dict(config["arguments"])
    if arguments.pop("seed") != config["seed"]:
        raise InputError("two seeds")
    return {
        "recipe": Recipe(decay_at=None if decay_at is None else tuple(decay_at), **recipe),
        "num_members": num_members,
        "seed": config["seed"],
        "start_from": None if started in (None, {"run": OWN_START}) else started["run"],
        "arguments": arguments,
    }


def _match_determinism(run, deterministic):
    """Enables determinism if a run was begun with it."""
    if type(deterministic) is not bool:
        raise UnreadableFileError(f"{run} does not say whether it is deterministic.")
    if deterministic:
        enable_determinism()
    elif is_deterministic():
        raise InputError(f"{run} was begun without determinism, which is enabled here.")
