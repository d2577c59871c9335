"""The training and validation batches of a run."""

import math

import tensorflow as tf

from parl_tf.data.augmentation import AUGMENTATIONS
from parl_tf.data.batches import paired_batches, training_batches
from parl_tf.data.datasets import MIRRORED_DATASETS, Dataset
from parl_tf.data.examples import Split
from parl_tf.defences.base import Ensemble
from parl_tf.errors import InputError
from parl_tf.runtime.replicas import num_replicas
from parl_tf.training.recipe import Recipe


def batches_to_train_on(
    ensemble: Ensemble, dataset: Dataset, recipe: Recipe, seed: int, initial_epoch: int
) -> tf.data.Dataset:
    """The batches that an ensemble is trained on, starting at `initial_epoch`.

    Raises:
        InputError: The batch size is not divisible by the number of devices, or the batch
            functions reject the data or the recipe.
    """
    if recipe.batch_size % num_replicas():
        raise InputError(
            f"Expected a batch_size divisible by the number of devices, {num_replicas()}. "
            f"Received: {recipe.batch_size}."
        )
    mirror = dataset.name in MIRRORED_DATASETS
    make_batches = paired_batches if ensemble.uses_partners else training_batches
    return make_batches(
        dataset.train,
        batch_size=recipe.batch_size,
        seed=seed,
        augmentation=AUGMENTATIONS[recipe.augmentation](dataset.image_shape, mirror),
        noise_stddev=recipe.noise_stddev,
        initial_epoch=initial_epoch,
    )


def batches_to_validate_on(split: Split) -> tf.data.Dataset | None:
    """Batches to validate on, or None for an empty split.

    Raises:
        InputError: There are fewer examples than devices.
    """
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
    """Whether every replica gets part of the last batch; the first ones get larger parts."""
    rest, replicas = min(count, count % batch_size or batch_size), num_replicas()
    return rest > math.ceil(rest / replicas) * (replicas - 1)
