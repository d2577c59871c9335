"""How far members of an ensemble fool one another, and how often they answer alike."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from parl_tf.arguments import check_seed
from parl_tf.attacks.base import Attack
from parl_tf.data.examples import Split, check_examples
from parl_tf.defences.base import Ensemble
from parl_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class MemberTransfer:
    """What M members of an ensemble do to one another.

    Attributes:
        success: float64 array (M, M), in [0, 1]. Row i: the member that examples were crafted on,
            white box for that member alone. Column j: the member judged. The part of the images
            which j gets right when clean that j gets wrong when attacked; NaN if it gets none
            right.
        agreement_clean: float64 array (M, M), in [0, 1]: the part of the clean images on which
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
    """Attacks each member, shows the result to all, and attacks the ensemble.

    An attack of several restarts is run once, as its restart 0: the worst of several would be a
    matter of which member is judged.

    Args:
        ensemble: Members to measure, in inference mode.
        attack: How examples are crafted.
        epsilon: Radius of the L-infinity ball, in pixel units of [0, 1].
        images: Array (n, height, width, channels), pixels in [0, 1].
        labels: Integer array (n,), the true classes.
        seed: Seed of what the attack draws, the same on every member.
        batch_size: Images at a time.

    Returns:
        How often examples transfer, and how often members agree.

    Raises:
        InputError: Not an `Ensemble` or an attack; images or labels that do not fit it; a number
            outside its values; logits that are not finite. Arguments are checked before the
            first attack.

    Source: the transfer matrices of DVERGE, arXiv 2009.14720; which images count is this
    package's choice.
    """
    examples = _check_arguments(ensemble, attack, epsilon, images, labels, seed, batch_size)
    predict = _predictor(ensemble)

    def attacked(model):
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


def _check_arguments(ensemble, attack, epsilon, images, labels, seed, batch_size) -> Split:
    """Validates everything that `member_transfer` is given, and returns the examples."""
    if not isinstance(ensemble, Ensemble):
        raise InputError(f"Expected an Ensemble to measure. Received: {ensemble!r}.")
    if not isinstance(attack, Attack):
        raise InputError(f"Expected an attack such as parl_tf.FGSM(). Received: {attack!r}.")
    attack.check_epsilon(epsilon)
    check_seed(seed)
    if batch_size < 1:
        raise InputError(f"Expected batch_size of at least 1. Received: {batch_size}.")
    examples = check_examples(images, labels, ensemble.num_classes)
    if examples.images.shape[1:] != ensemble.image_shape:
        raise InputError(
            f"Expected images of shape {ensemble.image_shape}, as the members take them. "
            f"Received: {examples.images.shape[1:]}."
        )
    return examples


def _predictor(ensemble: Ensemble) -> Callable[[np.ndarray], tuple[tf.Tensor, tf.Tensor]]:
    """From images to whether logits are finite, and each member's classes (members, batch)."""

    def predict(images):
        logits = tf.stack(ensemble.member_logits(images, training=False))
        return tf.reduce_all(tf.math.is_finite(logits)), tf.argmax(logits, axis=-1)

    batch = tf.TensorSpec((None, *ensemble.image_shape), tf.float32)
    return tf.function(predict, input_signature=[batch])


def _predictions(predict, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Each member's classes, (members, n), a batch at a time."""
    parts = []
    for begin in range(0, len(images), batch_size):
        finite, classes = predict(images[begin : begin + batch_size])
        if not finite:
            raise InputError("Expected finite logits. Received: NaN or infinite ones.")
        parts.append(classes.numpy())
    return np.concatenate(parts, axis=1)


def _agreement(predictions: np.ndarray) -> np.ndarray:
    """Part of the images on which each two members predict the same class."""
    return np.mean(predictions[:, np.newaxis] == predictions, axis=2)


def _quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient of counts, NaN where there is nothing to count."""
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), np.nan)
