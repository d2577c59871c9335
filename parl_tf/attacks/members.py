"""Models as attacks see them: members, as functions from images."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parl_tf.data.examples import check_images
from parl_tf.defences.base import Ensemble
from parl_tf.errors import InputError
from parl_tf.graphs.classifiers import check_logits, check_logits_classifier
from parl_tf.tensors import LOSS_SCALE

Logits = Callable[[tf.Tensor], tf.Tensor]
"""From images (batch, height, width, channels) to logits (batch, classes)."""

MemberLogits = Callable[[tf.Tensor], tf.Tensor]
"""From images to the log-probabilities of each member, (members, batch, classes)."""


def members_of(model: keras.Model | Logits) -> list[keras.Model | Logits]:
    """The members of an ensemble, or a single classifier.

    Raises:
        InputError: Not a model or function, or a Keras model that returns probabilities or does
            not classify images.
    """
    if not callable(model):
        raise InputError(
            f"Expected a model or a function that returns logits. Received: {model!r}."
        )
    if isinstance(model, Ensemble):
        return list(model.members)
    if isinstance(model, keras.Model):
        check_logits_classifier(model)
    return [model]


def member_logits(members: Sequence[keras.Model | Logits]) -> MemberLogits:
    """Members, models in inference mode, as one function from images to log-probabilities.

    It returns log-probabilities, since the gradient of raw logits loses the true class's part where
    float32 rounds its probability to 1. If members compute in half precision, gradients are
    multiplied by `LOSS_SCALE`: small ones would underflow and seem masked.
    """
    answers = [
        functools.partial(member, training=False) if isinstance(member, keras.Model) else member
        for member in members
    ]

    def answer(images: tf.Tensor) -> tf.Tensor:
        logits = [answer(images) for answer in answers]
        stacked = tf.stack([tf.cast(each, tf.float32) for each in logits])
        if any(each.dtype.size < 4 for each in logits):
            stacked = _steeper(stacked)
        return tf.nn.log_softmax(stacked, axis=-1)

    return answer


@tf.custom_gradient
def _steeper(logits: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """The same logits, with gradients multiplied by `LOSS_SCALE`."""
    return logits, lambda upstream: LOSS_SCALE * upstream


def count_classes(members: Sequence[keras.Model | Logits], images: Any) -> int:
    """Number of classes, from the members' outputs, which must be logits.

    Args:
        members: Models in inference mode, or functions to logits.
        images: Array (n, height, width, channels), pixels in [0, 1]; members see the first few.

    Raises:
        InputError: Images of another shape or range, or outputs that are not finite logits
            (batch, classes).
    """
    few = tf.constant(check_images(images)[:8])
    for member in members:
        logits = np.asarray(member(few), "float32")
        if logits.ndim != 2 or len(logits) != len(few):
            raise InputError(f"Expected logits (batch, classes). Received: shape {logits.shape}.")
        if not np.isfinite(logits).all():
            raise InputError("Expected finite logits. Received: NaN or infinite values.")
        check_logits(logits)
    return logits.shape[1]
