"""All measures of an ensemble's diversity, in one record."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from parl_tf.arguments import check_seed
from parl_tf.attacks.base import Attack
from parl_tf.data.examples import Split, check_examples
from parl_tf.data.own import Examples, as_arrays
from parl_tf.defences.base import Ensemble
from parl_tf.diversity.cka import layer_cka
from parl_tf.diversity.transferability import member_transfer
from parl_tf.errors import InputError
from parl_tf.graphs.input_gradients import loss_gradient_cosines, loss_gradients
from parl_tf.provenance import fingerprint, versions, weights_fingerprint
from parl_tf.results.diversity import DiversityRecord
from parl_tf.results.records import ModelCard
from parl_tf.training.config import RunConfig


def measure_diversity(
    name: str,
    ensemble: Ensemble,
    attack: Attack,
    epsilon: float,
    data: Examples,
    *,
    tap: str = "activation",
    example: int = 0,
    seed: int = 0,
    batch_size: int = 250,
    config: RunConfig | None = None,
    data_description: Mapping[str, Any] | None = None,
) -> DiversityRecord:
    """Measures the diversity of an ensemble's members on images.

    Args:
        name: The ensemble's name in tables.
        ensemble: An ensemble of any method.
        attack: The attack for measuring transfer between members.
        epsilon: Radius of the attack's L-infinity ball, in pixel units of [0, 1].
        data: Images and labels, as for `evaluate_robustness`.
        tap: Which output of a convolution is a layer's representation, as for `expose_layers`.
        example: Index of the image whose gradients are kept.
        seed: Seed of the attack.
        batch_size: Images per batch.
        config: Configuration of the run that trained the ensemble.
        data_description: Description of the images, for the record.

    Returns:
        The record: CKA, cosines of loss gradients, transfer and agreement.

    Raises:
        InputError: A model that is not an `Ensemble`, or an argument out of range.

    Example:
        >>> record = parl_tf.measure_diversity(
        ...     "mine", ensemble, parl_tf.FGSM(), 0.1, sample
        ... )
        >>> record.pairs, len(record.gradient_cosines)
        ([[0, 1]], 1)
    """
    began = time.monotonic()
    if not isinstance(ensemble, Ensemble):
        raise InputError(f"Expected an Ensemble to measure. Received: {ensemble!r}.")
    examples = check_examples(*as_arrays(data, "test"), ensemble.num_classes)
    if not 0 <= example < len(examples):
        raise InputError(f"Expected example from 0 to {len(examples) - 1}. Received: {example}.")
    if not isinstance(attack, Attack):
        raise InputError(f"Expected an attack such as parl_tf.PGD(). Received: {attack!r}.")
    attack.check_epsilon(epsilon)
    check_seed(seed)
    alike = layer_cka(ensemble, examples.images, tap=tap, batch_size=batch_size)
    transfer = member_transfer(
        ensemble,
        attack,
        epsilon,
        examples.images,
        examples.labels,
        seed=seed,
        batch_size=batch_size,
    )
    kept = examples.take(np.array([example]))
    gradients = loss_gradients(ensemble.members, tf.constant(kept.images), kept.labels)
    return DiversityRecord(
        target=ModelCard(name=name, fingerprint=weights_fingerprint(ensemble), config=config),
        data={
            **(data_description or {}),
            "num_examples": len(examples),
            "fingerprint": fingerprint(examples.images, examples.labels),
        },
        tap=tap,
        pairs=[list(pair) for pair in alike.pairs],
        cka=_nullable(alike.biased),
        unbiased_cka=_nullable(alike.unbiased),
        gradient_cosines=_mean_cosines(ensemble, examples, batch_size),
        attack={"name": attack.name, **dataclasses.asdict(attack), "epsilon": float(epsilon)},
        transfer=_nullable(transfer.success),
        agreement_clean=transfer.agreement_clean.tolist(),
        agreement_adversarial=transfer.agreement_adversarial.tolist(),
        example={
            "image": kept.images[0].tolist(),
            "label": int(kept.labels[0]),
            "gradients": [_scaled(gradient.numpy()[0]).tolist() for gradient in gradients],
        },
        seed=seed,
        seconds=time.monotonic() - began,
        versions=versions(),
    )


def _mean_cosines(ensemble: Ensemble, examples: Split, batch_size: int) -> list[float]:
    """Mean cosine of the members' loss gradients, for each pair."""
    graph = tf.function(
        lambda images, labels: tf.reduce_sum(
            loss_gradient_cosines(ensemble.members, images, labels), axis=0
        ),
        reduce_retracing=True,
    )
    batches = tf.data.Dataset.from_tensor_slices((examples.images, examples.labels))
    sums = [graph(images, labels).numpy() for images, labels in batches.batch(batch_size)]
    return (np.sum(sums, axis=0, dtype="float64") / len(examples)).tolist()


def _scaled(gradient: np.ndarray) -> np.ndarray:
    """A gradient scaled to a largest absolute entry of 1, rounded to four digits, for a figure."""
    largest = np.abs(gradient).max()
    return np.round(gradient.astype("float64") / (largest or 1.0), 4)


def _nullable(array: np.ndarray) -> list[list[float | None]]:
    """A matrix as nested lists, with None in place of NaN and infinite values."""
    return [[value if np.isfinite(value) else None for value in row] for row in array.tolist()]
