"""From a recipe to a trained ensemble in a run folder."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parl_tf.augmentation import training_batches
from parl_tf.data import MIRRORED_DATASETS, PIXEL_STATISTICS, Dataset, Split
from parl_tf.defences import METHODS
from parl_tf.defences.base import Ensemble
from parl_tf.errors import DivergedError, InputError
from parl_tf.models.resnet import resnet20
from parl_tf.runs import HISTORY, begin_run, check_can_begin, finish_run, versions


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an ensemble is trained: Adam under a cosine decay to zero, without warm-up.

    Attributes:
        epochs: Passes over the training examples.
        batch_size: Examples a step.
        learning_rate: Adam's rate at the first step.
        max_shift: Largest random shift of an image, in pixels.

    Raises:
        InputError: Fewer than one epoch, or a learning rate that is not positive and finite.
    """

    epochs: int = 24
    batch_size: int = 128
    learning_rate: float = 1e-3
    max_shift: int = 4

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"Expected epochs of at least 1. Received: {self.epochs}.")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(
                f"Expected a positive, finite learning_rate. Received: {self.learning_rate}."
            )


def build_ensemble(
    method: str, dataset: Dataset, *, num_members: int = 3, seed: int = 0, **arguments: Any
) -> Ensemble:
    """Makes an untrained ensemble of ResNet20s for a data set.

    Args:
        method: Name of a training method.
        dataset: Decides image shape, classes and normalisation.
        num_members: How many members.
        seed: Members' initial weights follow from it, different for every pair of seed and member.
        **arguments: Keyword arguments of the method's class.

    Returns:
        The ensemble, not compiled.

    Raises:
        InputError: An unknown method, or what its class refuses.
    """
    make = METHODS[method]
    normalization = dataset.name if dataset.name in PIXEL_STATISTICS else None
    members = [
        resnet20(
            dataset.num_classes,
            input_shape=dataset.image_shape,
            normalization=normalization,
            seed=member_seed,
        )
        for member_seed in _member_seeds(seed, num_members)
    ]
    return make(members, **arguments)


def train(
    method: str,
    dataset: Dataset,
    out: str | os.PathLike,
    *,
    recipe: Recipe | None = None,
    num_members: int = 3,
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> Ensemble:
    """Trains an ensemble of ResNet20s and leaves it in a run folder.

    Args:
        method: Name of a training method.
        dataset: What to train and validate on.
        out: The run folder to make: `config.json`, `history.csv` (a line an epoch, written at its
            end) and, once trained, `model.keras`.
        recipe: How to train; None for the default.
        num_members: How many members.
        seed: Decides initial weights, order and augmentation.
        arguments: Keyword arguments of the method's class.
        callbacks: Further Keras callbacks.
        verbose: As for `fit`.

    Returns:
        The trained ensemble.

    Raises:
        InputError: An argument that cannot be used.
        ExistingRunError: `out` holds a finished run, or something that is not a run.
        DivergedError: The loss became infinite or NaN; the run stays unfinished.
    """
    recipe = recipe or Recipe()
    check_can_begin(out)
    batches = training_batches(
        dataset.train,
        batch_size=recipe.batch_size,
        seed=seed,
        max_shift=recipe.max_shift,
        flip=dataset.name in MIRRORED_DATASETS,
    )
    ensemble = build_ensemble(
        method, dataset, num_members=num_members, seed=seed, **(arguments or {})
    )
    steps = recipe.epochs * int(batches.cardinality())
    ensemble.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    config = {
        "format": 1,
        "method": method,
        "arguments": _own_arguments(ensemble),
        "network": "resnet20",
        "num_members": num_members,
        "seed": seed,
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "train_examples": len(dataset.train),
            "validation_examples": len(dataset.validation),
        },
        "recipe": dataclasses.asdict(recipe),
        "versions": versions(),
    }
    folder = begin_run(out, config)
    history = ensemble.fit(
        batches,
        epochs=recipe.epochs,
        validation_data=_validation_batches(dataset.validation),
        callbacks=[
            keras.callbacks.CSVLogger(folder / HISTORY),
            keras.callbacks.TerminateOnNaN(),
            *callbacks,
        ],
        shuffle=False,  # done by the batches themselves
        verbose=verbose,
    )
    if not np.isfinite(history.history["loss"]).all():
        raise DivergedError(
            f"The loss is not a finite number any more; {folder} holds no model. Expected a "
            f"smaller learning rate than {recipe.learning_rate}, perhaps."
        )
    finish_run(folder, ensemble)
    return ensemble


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
    return tf.data.Dataset.from_tensor_slices((split.images, split.labels)).batch(250)
