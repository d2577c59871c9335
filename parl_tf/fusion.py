"""How members' logits become one prediction."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Vote(NamedTuple):
    """The outcome of a majority vote.

    Attributes:
        labels: int64 tensor (batch,), the winning classes.
        tied: bool tensor (batch,), where several classes had the most votes.
    """

    labels: tf.Tensor
    tied: tf.Tensor


def log_mean_probability(logits: Sequence[tf.Tensor]) -> tf.Tensor:
    """Logarithm of the members' mean probability.

    Softmax cross-entropy takes the result as logits without distortion, and it stays exact where
    probabilities themselves would round to 0 or 1.

    Args:
        logits: One tensor (batch, classes) a member.

    Returns:
        Tensor (batch, classes), natural logarithms, at most 0 up to rounding; at least float32.
    """
    stacked = _stack(logits)
    log_probabilities = tf.nn.log_softmax(stacked, axis=-1)
    count = tf.cast(tf.shape(stacked)[0], stacked.dtype)
    return tf.reduce_logsumexp(log_probabilities, axis=0) - tf.math.log(count)


def majority_vote(logits: Sequence[tf.Tensor]) -> Vote:
    """Majority vote of the members' labels.

    Among classes with equally many votes the one with the highest summed probability wins.

    Args:
        logits: One tensor (batch, classes) a member.

    Returns:
        The winning labels, and where the vote was tied.

    Source: PARL, arXiv 2112.04948, section 5 (the vote); the tie rule is this package's.
    """
    stacked = _stack(logits)
    ballots = tf.one_hot(tf.argmax(stacked, axis=-1), stacked.shape[-1], dtype=tf.int32)
    votes = tf.reduce_sum(ballots, axis=0)
    leading = tf.equal(votes, tf.reduce_max(votes, axis=-1, keepdims=True))
    probability = tf.reduce_sum(tf.nn.softmax(stacked, axis=-1), axis=0)
    labels = tf.argmax(tf.where(leading, probability, -1.0), axis=-1)
    tied = tf.math.count_nonzero(leading, axis=-1) > 1
    return Vote(labels, tied)


def _stack(logits: Sequence[tf.Tensor]) -> tf.Tensor:
    """Stacks to (members, batch, classes), half precision widened to float32."""
    stacked = tf.stack(list(logits))
    return tf.cast(stacked, tf.float32) if stacked.dtype.size < 4 else stacked
