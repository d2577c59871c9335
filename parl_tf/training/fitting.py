"""From a recipe to a trained ensemble in a run folder."""

import dataclasses
import inspect
import logging
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parl_tf.arguments import listed
from parl_tf.data.batches import paired_batches, training_batches
from parl_tf.data.datasets import MIRRORED_DATASETS, Dataset, check_dataset
from parl_tf.data.examples import Split
from parl_tf.defences import METHODS
from parl_tf.defences.base import Ensemble
from parl_tf.errors import ExistingRunError, InputError
from parl_tf.models import NETWORKS
from parl_tf.models.penalties import penalize_all_weights
from parl_tf.provenance import versions
from parl_tf.runtime.determinism import is_deterministic
from parl_tf.runtime.replicas import num_replicas
from parl_tf.training.checkpoints import Checkpoints, continue_run
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
from parl_tf.training.recipes import Recipe, recipe_of
from parl_tf.training.warm_start import begin_from, check_own_start

_log = logging.getLogger(__name__)
OWN_START = "start"  # in the folder of a run that needs a trained ensemble to begin from
_DIAGNOSED = 250  # images that diversity is measured on


def build_ensemble(
    method: str,
    dataset: Dataset,
    *,
    recipe: Recipe | str | None = None,
    num_members: int = 3,
    seed: int = 0,
    **arguments: Any,
) -> Ensemble:
    """Makes an untrained ensemble for a data set.

    Args:
        method: Name of a training method.
        dataset: Decides image shape, classes and normalisation.
        recipe: Decides the members' network; as for `train`.
        num_members: How many members.
        seed: Members' initial weights follow from it, different for every pair of seed and
            member, and what the method draws while training.
        **arguments: Keyword arguments of the method's class.

    Returns:
        The ensemble, not compiled.

    Raises:
        InputError: An unknown method, or what its class refuses.

    Example:
        >>> recipe = parl_tf.Recipe(network="resnet8")
        >>> ensemble = parl_tf.build_ensemble("parl", dataset, recipe=recipe, num_layers=3)
        >>> ensemble  # doctest: +ELLIPSIS
        <PARL name=parl...>
        >>> len(ensemble.members)
        3
    """
    make = METHODS[method]
    check_dataset(dataset)
    recipe = recipe_of(recipe, method)
    network = NETWORKS[recipe.network]
    normalization = recipe.pixel_statistics(dataset.name)
    options = {} if recipe.kernel_penalty is None else {"kernel_penalty": recipe.kernel_penalty}
    members = [
        network(
            dataset.num_classes,
            input_shape=dataset.image_shape,
            normalization=normalization,
            seed=member_seed,
            **options,
        )
        for member_seed in _member_seeds(seed, num_members)
    ]
    if recipe.penalized == "all":
        for member in members:
            penalize_all_weights(member, _resolved(recipe).kernel_penalty or 0.0)
    return make(members, seed=seed, **arguments)


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
    begin_anew: bool = True,
) -> Ensemble:
    """Trains an ensemble and leaves it in a run folder.

    A run that was interrupted is continued by the same call, after its last whole epoch, and
    ends as if it had not been. Within the scope of a `MirroredStrategy` (or of
    `parl_tf.spread_over`) it is trained on all its devices, to the same weights but for rounding.

    Args:
        method: Name of a training method.
        dataset: What to train and validate on. Diversity is measured on its first validation
            images, or training images if it has none.
        out: The run folder to make: `config.json`, `history.csv` (a line an epoch, written at its
            end), checkpoints of the last two epochs and, once trained, `model.keras` instead. An
            unfinished run there is continued if its configuration is the same, else begun anew.
        recipe: How to train, or its name; None for the recipe of the method's authors.
        num_members: How many members.
        seed: Decides initial weights, order, augmentation and what the method draws.
        start_from: Run folder or Keras file whose members' weights to begin from. A method that
            needs one (DVERGE) and is given none trains an unprotected ensemble first, by the same
            recipe, in the folder `start` of its own.
        arguments: Keyword arguments of the method's class.
        callbacks: Further Keras callbacks, or one. What they keep to themselves is not continued.
        verbose: As for `fit`.
        begin_anew: Whether to begin again where checkpoints are there and none can be continued.

    Returns:
        The trained ensemble.

    Raises:
        InputError: An argument that cannot be used, or a start of another network, number of
            classes or number of members.
        ExistingRunError: `out` holds a finished run, or something that is not a run; another
            process is at work in it; its checkpoints cannot be continued and are not to be
            thrown away; or the start in it is of another training or another network.
        MissingFileError: Nothing to start from at `start_from`.
        UnreadableFileError: What is there cannot be read.
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
    recipe = _resolved(recipe_of(recipe, method))
    check_can_begin(out)
    ensemble = build_ensemble(
        method, dataset, recipe=recipe, num_members=num_members, seed=seed, **(arguments or {})
    )
    folder = pathlib.Path(out)
    started = _started(ensemble, start_from, seed)
    config = _configuration(method, ensemble, dataset, recipe, seed, started)
    own_start = folder / OWN_START if started == {"run": OWN_START} else None
    _training_batches(ensemble, dataset, recipe, seed, 0)  # what these refuse ends here
    _validation_batches(dataset.validation)
    with locked(folder):
        check_can_begin(folder)  # another process may just have finished it
        continued = continue_run(folder, config)
        if continued is None and not begin_anew and find_checkpoints(folder):
            raise ExistingRunError(
                f"None of the checkpoints in {folder} can be continued; nothing was changed. "
                "parl-train with the run's own options begins anew there."
            )
        ensemble, epoch = continued or (ensemble, 0)
        batches = _training_batches(ensemble, dataset, recipe, seed, epoch)
        # What is read from a file is compiled again: whether by XLA depends on the machine.
        ensemble.compile(
            optimizer=ensemble.optimizer if continued else _optimizer(recipe, len(batches)),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        if continued:
            _log.info("%s: continuing after %d of %d epochs.", folder, epoch, recipe.epochs)
        else:
            if own_start:
                check_own_start(ensemble, own_start, config)
            begin_run(folder, config)
            if own_start:
                _train_start(own_start, method, dataset, recipe, num_members, seed, verbose)
                begin_from(ensemble, own_start)
        _fit(ensemble, batches, dataset, recipe, folder, epoch, callbacks, verbose)
        finish_run(folder, ensemble)
        return ensemble


def _started(ensemble, start_from, seed):
    """Gives an ensemble the weights that it begins from, if named; what a configuration says."""
    if start_from is None:
        return {"run": OWN_START} if ensemble.needs_start else None
    started = begin_from(ensemble, start_from)
    if started.get("seed") != seed:
        _log.warning(
            "%s was trained from another seed: it has seen images that validate this run.",
            start_from,
        )
    return started


def _configuration(method, ensemble, dataset, recipe, seed, started):
    """What a run is, as it is written into its folder."""
    return {
        "format": 1,
        "method": method,
        "arguments": _own_arguments(ensemble),
        "num_members": len(ensemble.members),
        "seed": seed,
        "start_from": started,
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "train_examples": len(dataset.train),
            "validation_examples": len(dataset.validation),
            "seed": dataset.seed,
        },
        "recipe": recipe.to_json(),
        "deterministic": is_deterministic(),
        "devices": num_replicas(),
        "versions": versions(),
    }


def _training_batches(ensemble, dataset, recipe, seed, initial_epoch):
    """The batches that an ensemble is trained on, from an epoch on."""
    if recipe.batch_size % num_replicas():
        raise InputError(
            f"Expected a batch_size that the number of devices, {num_replicas()}, divides. "
            f"Received: {recipe.batch_size}."
        )
    make_batches = paired_batches if ensemble.uses_partners else training_batches
    return make_batches(
        dataset.train,
        batch_size=recipe.batch_size,
        seed=seed,
        max_shift=recipe.max_shift,
        flip=dataset.name in MIRRORED_DATASETS,
        noise_stddev=recipe.noise_stddev,
        initial_epoch=initial_epoch,
    )


def _fit(ensemble, batches, dataset, recipe, folder, initial_epoch, callbacks, verbose):
    """Trains from an epoch on, with a line of history and a checkpoint for each."""
    measured_on = dataset.validation or dataset.train
    diagnosed = measured_on.take(np.arange(min(_DIAGNOSED, len(measured_on))))
    lines = keras.callbacks.CSVLogger(folder / HISTORY, append=True)
    try:
        return ensemble.fit(
            batches,
            epochs=recipe.epochs,
            initial_epoch=initial_epoch,
            validation_data=_validation_batches(dataset.validation),
            callbacks=[
                StopWhenDiverged(),
                DiversityDiagnostics(diagnosed.images, diagnosed.labels),
                lines,
                *listed(callbacks or ()),
                TimeLeft(str(folder)),
                Checkpoints(folder),  # last: an epoch that has one is over
            ],
            shuffle=False,  # done by the batches themselves
            verbose=verbose,
        )
    finally:
        lines.on_train_end()  # which `fit` does not get to when interrupted


def _train_start(folder, method, dataset, recipe, num_members, seed, verbose):
    """Trains the unprotected ensemble that a method begins from, unless it is there."""
    if is_finished(folder):
        _log.info("%s begins from the unprotected ensemble in %s.", method, folder)
        return
    _log.info(
        "%s begins from a trained unprotected ensemble, and none was given (--start-from): "
        "training one first, in %s.",
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


def _resolved(recipe: Recipe) -> Recipe:
    """A recipe that leaves nothing to its network's defaults."""
    if recipe.kernel_penalty is not None:
        return recipe
    parameters = inspect.signature(NETWORKS[recipe.network]).parameters
    return dataclasses.replace(recipe, kernel_penalty=parameters["kernel_penalty"].default)


def _optimizer(recipe: Recipe, steps_an_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe, with its schedule."""
    steps = recipe.epochs * steps_an_epoch
    rate: keras.optimizers.schedules.LearningRateSchedule | float = recipe.learning_rate
    if recipe.decay_at is None:
        rate = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
    elif recipe.decay_at:
        # A rate holds up to and with its boundary; the first step is number 0.
        boundaries = [round(part * steps) - 1 for part in recipe.decay_at]
        rates = [recipe.learning_rate / 10**number for number in range(len(boundaries) + 1)]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
    if recipe.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9)
    return keras.optimizers.Adam(rate)


def _member_seeds(seed: int, num_members: int) -> list[int]:
    """A seed for each member, unlike those of every other `seed`."""
    children = np.random.SeedSequence(seed).spawn(num_members)
    return [int(child.generate_state(1)[0]) for child in children]


def _own_arguments(ensemble: Ensemble) -> dict[str, Any]:
    """The resolved hyperparameters of an ensemble."""
    config = ensemble.get_config()
    return {key: value for key, value in config.items() if key not in ("members", "name")}


def _validation_batches(split: Split) -> tf.data.Dataset | None:
    """Batches to validate on, or None for an empty split."""
    if not len(split):
        return None
    batch_size = next((n for n in range(250, 0, -1) if _reaches_all(len(split), n)), None)
    if batch_size is None:
        raise InputError(
            f"Expected at least {num_replicas()} validation examples, one for each device. "
            f"Received: {len(split)}."
        )
    return tf.data.Dataset.from_tensor_slices((split.images, split.labels)).batch(batch_size)


def _reaches_all(count: int, batch_size: int) -> bool:
    """Whether every replica gets a part of the last batch, the first ones the larger parts."""
    rest, replicas = min(count, count % batch_size or batch_size), num_replicas()
    return rest > math.ceil(rest / replicas) * (replicas - 1)
