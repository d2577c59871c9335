"""Training an ensemble by a recipe into a run folder."""

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parl_tf.arguments import listed
from parl_tf.data.datasets import Dataset
from parl_tf.defences.base import Ensemble
from parl_tf.errors import ExistingRunError
from parl_tf.provenance import commit, versions
from parl_tf.runtime.determinism import is_deterministic
from parl_tf.runtime.replicas import num_replicas
from parl_tf.training.batches import batches_to_train_on, batches_to_validate_on
from parl_tf.training.building import build_ensemble, optimizer_of, resolved
from parl_tf.training.checkpoints import Checkpoints, continue_run
from parl_tf.training.config import OWN_START, RunConfig, Start, TrainingData
from parl_tf.training.diagnostics import DiversityDiagnostics
from parl_tf.training.divergence import StopWhenDiverged
from parl_tf.training.folders import (
    HISTORY,
    begin_run,
    check_can_begin,
    find_checkpoints,
    finish_run,
    is_finished,
)
from parl_tf.training.locks import locked
from parl_tf.training.progress import TimeLeft
from parl_tf.training.recipe import Recipe
from parl_tf.training.recipes import recipe_of
from parl_tf.training.warm_start import (
    begin_from,
    check_own_start,
    may_have_seen_validation,
)

_log = logging.getLogger(__name__)
_DIAGNOSED = 250  # images that diversity is measured on


def train(
    method: str,
    dataset: Dataset,
    out: str | os.PathLike,
    *,
    recipe: Recipe | str | None = None,
    num_members: int = 3,
    seed: int = 0,
    start_from: str | os.PathLike | None = None,
    arguments: Mapping[str, Any] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback = (),
    verbose: str | int = "auto",
    start_over: bool = True,
) -> Ensemble:
    """Trains an ensemble and saves it in a run folder.

    The same call continues an interrupted run after its last complete epoch; the result is as if
    it had not been interrupted. Within the scope of a `MirroredStrategy` (or of
    `parl_tf.spread_over`) it is trained on all devices, to the same weights up to rounding.

    Args:
        method: Name of a training method.
        dataset: What to train and validate on. Diversity is measured on its first validation
            images, or training images if it has none.
        out: The run folder to create, with `config.json`, `history.csv` (one line per epoch) and
            checkpoints of the last two epochs, which `model.keras` replaces at the end. An
            unfinished run there is continued if its configuration is the same; otherwise the run
            starts over.
        recipe: A recipe or its name; None for the recipe of the method's authors.
        num_members: Number of members.
        seed: Determines initial weights, order of examples, augmentation and the method's random
            draws.
        start_from: Run folder or Keras file whose members' weights to start from. Without one, a
            method that needs it (DVERGE), or a recipe that says so (`start_epochs`), first trains
            an unprotected ensemble by the same recipe, in the subfolder `start`.
        arguments: Keyword arguments of the method's class.
        callbacks: Additional Keras callbacks, or one. Their state is not restored when a run
            continues.
        verbose: As for `fit`.
        start_over: Whether to start over if there are checkpoints but none can be continued.

    Returns:
        The trained ensemble.

    Raises:
        InputError: An argument is invalid, or the ensemble to start from has another network,
            number of classes or number of members.
        ExistingRunError: `out` holds a finished run or something that is not a run; another
            process is using it; its checkpoints cannot be continued and `start_over` is False; or
            its subfolder `start` holds another training or another network.
        MissingFileError: There is no finished run or Keras file at `start_from`.
        UnreadableFileError: A file there, or in the subfolder `start`, cannot be read.
        DivergedError: The loss became infinite or NaN; the run stays unfinished.

    Example:
        >>> recipe = parl_tf.recipe_for("parl", epochs=1, batch_size=32, network="resnet8")
        >>> ensemble = parl_tf.train(
        ...     "parl",
        ...     dataset,
        ...     "runs/parl",
        ...     recipe=recipe,
        ...     num_members=2,
        ...     arguments={"num_layers": 3},
        ...     verbose=0,
        ... )
        >>> model, config = parl_tf.load_model("runs/parl")
        >>> model.num_layers
        3
    """
    adversarial = bool((arguments or {}).get("adversarial_training"))
    recipe = resolved(recipe_of(recipe, method, adversarial_training=adversarial))
    check_can_begin(out)
    ensemble = build_ensemble(
        method, dataset, recipe=recipe, num_members=num_members, seed=seed, **(arguments or {})
    )
    folder = pathlib.Path(out)
    started = _started(ensemble, start_from, recipe, dataset)
    config = _configuration(method, ensemble, dataset, recipe, seed, started)
    own_start = folder / OWN_START if started and started.is_own else None
    batches_to_train_on(ensemble, dataset, recipe, seed, 0)  # both raise before anything is written
    batches_to_validate_on(dataset.validation)
    with locked(folder):
        check_can_begin(folder)  # another process may just have finished it
        continued = continue_run(folder, config)
        if continued is None and not start_over and find_checkpoints(folder):
            raise ExistingRunError(
                f"None of the checkpoints in {folder} can be continued; nothing was changed. "
                "To start over, run parl-train with the options of that run."
            )
        ensemble, epoch = continued or (ensemble, 0)
        batches = batches_to_train_on(ensemble, dataset, recipe, seed, epoch)
        # A loaded ensemble is compiled again, as the use of XLA depends on the machine.
        ensemble.compile(
            optimizer=ensemble.optimizer if continued else optimizer_of(recipe, len(batches)),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        if continued:
            _log.info("%s: continuing after %d of %d epochs.", folder, epoch, recipe.epochs)
        else:
            if find_checkpoints(folder):
                _log.warning("%s: starting over.", folder)
            if own_start:
                check_own_start(ensemble, own_start, config)
            begin_run(folder, config)
            if own_start:
                start = recipe.of_start
                _train_start(own_start, method, dataset, start, num_members, seed, verbose)
                begin_from(ensemble, own_start)
        _fit(ensemble, batches, dataset, recipe, folder, epoch, callbacks, verbose)
        finish_run(folder, ensemble)
        return ensemble


def _started(
    ensemble: Ensemble, start_from: str | os.PathLike | None, recipe: Recipe, dataset: Dataset
) -> Start | None:
    """Copies the weights at `start_from`, if given; returns the value for the configuration."""
    if start_from is None:
        needed = ensemble.needs_start or recipe.start_epochs is not None
        return Start(run=OWN_START) if needed else None
    started = begin_from(ensemble, start_from)
    if may_have_seen_validation(start_from, dataset):
        _log.warning(
            "%s was trained on other images than this run, or does not say on which: it may have "
            "seen validation images of this run.",
            start_from,
        )
    return started


def _configuration(
    method: str,
    ensemble: Ensemble,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    started: Start | None,
) -> RunConfig:
    """The configuration that is written into the folder of a run."""
    arguments = ensemble.get_config()
    return RunConfig(
        method=method,
        arguments={k: v for k, v in arguments.items() if k not in ("members", "name")},
        num_members=len(ensemble.members),
        seed=seed,
        recipe=recipe,
        dataset=TrainingData(
            name=dataset.name,
            fingerprint=dataset.fingerprint,
            train_examples=len(dataset.train),
            validation_examples=len(dataset.validation),
            seed=dataset.seed,
        ),
        start_from=started,
        deterministic=is_deterministic(),
        devices=num_replicas(),
        versions=versions(),
        commit=commit(),
    )


def _fit(
    ensemble: Ensemble,
    batches: tf.data.Dataset,
    dataset: Dataset,
    recipe: Recipe,
    folder: pathlib.Path,
    initial_epoch: int,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback,
    verbose: str | int,
) -> None:
    """Trains from `initial_epoch` on; each epoch adds a line to the history and a checkpoint."""
    measured_on = dataset.validation or dataset.train
    diagnosed = measured_on.take(np.arange(min(_DIAGNOSED, len(measured_on))))
    lines = keras.callbacks.CSVLogger(folder / HISTORY, append=True)
    try:
        ensemble.fit(
            batches,
            epochs=recipe.epochs,
            initial_epoch=initial_epoch,
            validation_data=batches_to_validate_on(dataset.validation),
            callbacks=[
                StopWhenDiverged(),
                DiversityDiagnostics(diagnosed.images, diagnosed.labels),
                lines,
                *listed(callbacks or ()),
                TimeLeft(str(folder)),
                Checkpoints(folder),  # last: an epoch with a checkpoint is complete
            ],
            shuffle=False,  # the batches are shuffled already
            verbose=verbose,
        )
    finally:
        lines.on_train_end()  # `fit` does not call it when interrupted


def _train_start(
    folder: pathlib.Path,
    method: str,
    dataset: Dataset,
    recipe: Recipe,
    num_members: int,
    seed: int,
    verbose: str | int,
) -> None:
    """Trains the unprotected ensemble that a method starts from, unless it is finished."""
    if is_finished(folder):
        _log.info("%s starts from the unprotected ensemble in %s.", method, folder)
        return
    _log.info(
        "%s starts from a trained unprotected ensemble. None was given (--start-from): training "
        "one first, in %s.",
        method,
        folder,
    )
    train(
        "unprotected",
        dataset,
        folder,
        recipe=recipe,
        num_members=num_members,
        seed=seed,
        verbose=verbose,
    )
