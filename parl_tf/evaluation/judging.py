"""Whether models classify images correctly, image by image."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from parl_tf.data.examples import Split
from parl_tf.defences.base import Ensemble
from parl_tf.errors import InputError
from parl_tf.tensors import log_mean_probability, majority_vote


class Verdict(NamedTuple):
    """A model's results on some images: bool arrays, an entry for each image.

    Attributes:
        vote_right: Whether the majority vote was right.
        mean_right: Whether the class of the highest mean probability was right.
        tied: Whether the vote was tied.
        unmoved: Whether the image shown equals the clean one bit for bit.
    """

    vote_right: np.ndarray
    mean_right: np.ndarray
    tied: np.ndarray
    unmoved: np.ndarray


class Judge:
    """Compares a model's predictions with the labels.

    Args:
        model: An `Ensemble`, or a single classifier, which is an ensemble of one.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        # A partial: TensorFlow warns of retracing if one method is traced for many models.
        self._graph = tf.function(functools.partial(self._judge), reduce_retracing=True)

    def __call__(self, images: np.ndarray, examples: Split) -> Verdict:
        """Judges the model's predictions on a batch.

        Args:
            images: The images shown to the model, (batch, height, width, channels).
            examples: The clean images and their labels.

        Raises:
            InputError: The model returned NaN.
        """
        finite, *verdict = self._graph(tf.constant(images), tf.constant(examples.labels))
        if not finite:
            raise InputError(f"Expected finite logits. Model {self._model.name!r} returned NaN.")
        unmoved = np.all(images == examples.images, axis=(1, 2, 3))
        right, mean_right, tied = (part.numpy() for part in verdict)
        return Verdict(right, mean_right, tied, unmoved)

    def _judge(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Whether all logits are finite, and for each image the first three fields of a verdict."""
        if isinstance(self._model, Ensemble):
            logits = self._model.member_logits(images, training=False)
        else:
            logits = [self._model(images, training=False)]
        winners, tied = majority_vote(logits)
        mean_winners = tf.argmax(log_mean_probability(logits), axis=-1)
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(member)) for member in logits])
        return finite, winners == labels, mean_winners == labels, tied


def judge_all(
    judges: Mapping[str, Judge],
    examples: Split,
    shown: Callable[[Split, int], np.ndarray],
    batch_size: int,
) -> dict[str, Verdict]:
    """Shows images to every judge, a batch at a time.

    Args:
        judges: The judges, by name.
        examples: Clean images and labels.
        shown: From a batch of these, and the index of its first example, to the images to show.
        batch_size: Images at a time.

    Returns:
        A verdict on all images for each judge.
    """
    parts: dict[str, list[Verdict]] = {name: [] for name in judges}
    for first in range(0, len(examples), batch_size):
        batch = examples.take(np.arange(first, min(first + batch_size, len(examples))))
        images = shown(batch, first)
        for name, judge in judges.items():
            parts[name].append(judge(images, batch))
    return {
        name: Verdict(*map(np.concatenate, zip(*verdicts, strict=True)))
        for name, verdicts in parts.items()
    }


def measured(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The fields of a record that verdicts, one for each restart, determine."""
    return {
        "correct": [verdict.vote_right.astype(int).tolist() for verdict in verdicts],
        "mean_right": [float(verdict.mean_right.mean()) for verdict in verdicts],
        "tied": [float(verdict.tied.mean()) for verdict in verdicts],
        "unmoved": [float(verdict.unmoved.mean()) for verdict in verdicts],
    }
