"""Continuing an interrupted run with the configuration in its folder."""

import os
from collections.abc import Sequence
from typing import Any

import keras

from parl_tf.data.datasets import load_dataset
from parl_tf.defences.base import Ensemble
from parl_tf.errors import ExistingRunError, InputError, UnreadableFileError
from parl_tf.runtime.determinism import enable_determinism, is_deterministic
from parl_tf.runtime.devices import spread_over
from parl_tf.runtime.onednn import check_rounding
from parl_tf.training.building import build_ensemble
from parl_tf.training.config import RunConfig
from parl_tf.training.fitting import train
from parl_tf.training.folders import is_finished, read_config


def resume(
    run: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback = (),
    verbose: str | int = "auto",
) -> Ensemble:
    """Continues an interrupted run after its last complete epoch, as configured in its folder.

    If it was started with determinism enabled, this enables it for the process, so TensorFlow must
    not have computed anything yet. The run is trained on as many devices as before.

    Args:
        run: The run folder.
        data_dir: As for `load_dataset`.
        callbacks: As for `train`; the folder does not store them.
        verbose: As for `fit`.

    Returns:
        The trained ensemble.

    Raises:
        ExistingRunError: The run is finished, another process is using it, or none of its
            checkpoints can be continued.
        InputError: The data differ from those it was started on; determinism is enabled in this
            process but was not for the run; or it was for the run, and can no longer be enabled, or
            oneDNN's kernels are on in this process and were off in that of the run, or the reverse.
        MissingFileError: The run folder, the prepared data or the model that the run started from
            is missing.
        UnreadableFileError: The configuration in the folder cannot be used.
        DivergedError: The loss became infinite or NaN.

    Example:
        >>> ensemble = parl_tf.resume("runs/interrupted", verbose=0)
        >>> model, config = parl_tf.load_model("runs/interrupted")
    """
    config = read_config(run)
    if is_finished(run):
        raise ExistingRunError(f"The run in {run} is finished; there is nothing to resume.")
    _match_determinism(run, config)  # before anything is computed
    with spread_over(config.devices):
        return _resume(run, config, data_dir, callbacks, verbose)


def _resume(
    run: str | os.PathLike,
    config: RunConfig,
    data_dir: str | os.PathLike | None,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback,
    verbose: str | int,
) -> Ensemble:
    """Continues a run with its configuration."""
    started = config.start_from
    arguments = {name: value for name, value in config.arguments.items() if name != "seed"}
    how: dict[str, Any] = {
        "recipe": config.recipe,
        "num_members": config.num_members,
        "seed": config.seed,
    }
    try:
        if config.dataset.seed is None:
            raise InputError("Expected dataset.seed, the seed of the split. Received: None.")
        dataset = load_dataset(
            config.dataset.name,
            data_dir=data_dir,
            train_examples=config.dataset.train_examples,
            validation_examples=config.dataset.validation_examples,
            seed=config.dataset.seed,
        )
        build_ensemble(config.method, dataset, **how, **arguments)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UnreadableFileError(
            f"{run} cannot be continued with its config.json: {error}"
        ) from error
    if dataset.fingerprint != config.dataset.fingerprint:
        raise InputError(
            f"Expected the data that {run} was started on, with the fingerprint "
            f"{config.dataset.fingerprint}. Received: {dataset.fingerprint}."
        )
    return train(
        config.method,
        dataset,
        run,
        **how,
        start_from=None if started is None or started.is_own else started.run,
        arguments=arguments,
        callbacks=callbacks,
        verbose=verbose,
        start_over=False,
    )


def _match_determinism(run: str | os.PathLike, config: RunConfig) -> None:
    """Enables determinism if a run was started with it, unless its bits cannot be had here."""
    if config.deterministic:
        check_rounding(run, config.versions)
        enable_determinism()
    elif is_deterministic():
        raise InputError(
            f"Expected determinism to be disabled, as {run} was started without it. Received: a "
            "process in which it is enabled."
        )
