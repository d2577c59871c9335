"""Transfer of adversarial examples between members, and their agreement."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parl_tf.arguments import check_at_least, check_seed
from parl_tf.attacks.base import Attack
from parl_tf.data.examples import Split, check_examples
from parl_tf.defences.base import Ensemble
from parl_tf.errors import InputError

_Predict = Callable[[np.ndarray], tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class MemberTransfer:
    """Transfer and agreement between M members of an ensemble.

    Attributes:
        success: float64 array (M, M), in [0, 1]. Row i: the member that examples were crafted on.
            Column j: the member judged. The fraction of the clean images that j classifies
            correctly that it misclassifies when attacked; NaN if there are none.
        agreement_clean: float64 array (M, M), in [0, 1]: the fraction of clean images on which
            members i and j predict the same class. Symmetric, with diagonal 1.
        agreement_adversarial: The same on examples crafted on the whole ensemble.
    """

    success: np.ndarray
    agreement_clean: np.ndarray
    agreement_adversarial: np.ndarray


def member_transfer(
    ensemble: Ensemble,
    attack: Attack,
    epsilon: float,
    images: Any,
    labels: Any,
    *,
    seed: int = 0,
    batch_size: int = 250,
) -> MemberTransfer:
    """Attacks each member and the ensemble, and evaluates all members on the examples.

    An attack with several restarts runs restart 0 only, as the worst restart would depend on the
    member judged.

    Args:
        ensemble: Members to measure, in inference mode.
        attack: The attack that crafts examples.
        epsilon: Radius of the L-infinity ball, in pixel units of [0, 1].
        images: Array (n, height, width, channels), pixels in [0, 1].
        labels: Integer array (n,), the true classes.
        seed: Seed of the attack, the same for every member.
        batch_size: Images per batch.

    Returns:
        Rates of transfer between members, and of their agreement.

    Raises:
        InputError: A model that is not an `Ensemble`; something that is not an attack; images or
            labels that do not fit the model; a number out of range; logits that are not finite.
            Arguments are checked before the first attack.

    Source: the transfer matrices of DVERGE, arXiv 2009.14720; which images count is this
    package's choice.
    """
    examples = _check_arguments(ensemble, attack, epsilon, images, labels, seed, batch_size)
    predict = _predictor(ensemble)

    def attacked(model: keras.Model) -> np.ndarray:
        crafted = attack(
            model,
            examples.images,
            examples.labels,
            epsilon=epsilon,
            seed=seed,
            batch_size=batch_size,
        )
        return _predictions(predict, crafted, batch_size)

    clean = _predictions(predict, examples.images, batch_size)
    right = clean == examples.labels
    success = []
    for member in ensemble.members:
        fooled = right & (attacked(member) != examples.labels)
        success.append(_quotient(fooled.sum(axis=1), right.sum(axis=1)))
    return MemberTransfer(np.stack(success), _agreement(clean), _agreement(attacked(ensemble)))


def _check_arguments(
    ensemble: Ensemble,
    attack: Attack,
    epsilon: float,
    images: Any,
    labels: Any,
    seed: int,
    batch_size: int,
) -> Split:
    """Validates the arguments of `member_transfer` and returns the examples."""
    if not isinstance(ensemble, Ensemble):
        raise InputError(f"Expected an Ensemble to measure. Received: {ensemble!r}.")
    if not isinstance(attack, Attack):
        raise InputError(f"Expected an attack such as parl_tf.FGSM(). Received: {attack!r}.")
    attack.check_epsilon(epsilon)
    check_seed(seed)
    check_at_least("batch_size", batch_size, 1)
    examples = check_examples(images, labels, ensemble.num_classes)
    if examples.images.shape[1:] != ensemble.image_shape:
        raise InputError(
            f"Expected images of shape {ensemble.image_shape}, as the members take them. "
            f"Received: {examples.images.shape[1:]}."
        )
    return examples


def _predictor(ensemble: Ensemble) -> _Predict:
    """A graph from images to whether all logits are finite, and classes (members, batch)."""

    def predict(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = tf.stack(ensemble.member_logits(images, training=False))
        return tf.reduce_all(tf.math.is_finite(logits)), tf.argmax(logits, axis=-1)

    batch = tf.TensorSpec((None, *ensemble.image_shape), tf.float32)
    return tf.function(predict, input_signature=[batch])


def _predictions(predict: _Predict, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Each member's classes, (members, n)."""
    parts = []
    for begin in range(0, len(images), batch_size):
        finite, classes = predict(images[begin : begin + batch_size])
        if not finite:
            raise InputError("Expected finite logits. Received: NaN or infinite values.")
        parts.append(classes.numpy())
    return np.concatenate(parts, axis=1)


def _agreement(predictions: np.ndarray) -> np.ndarray:
    """Fraction of images on which each pair of members predicts the same class."""
    return np.mean(predictions[:, np.newaxis] == predictions, axis=2)


def _quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient of counts, NaN where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), np.nan)
