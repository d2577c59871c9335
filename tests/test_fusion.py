import numpy as np
import pytest
import tensorflow as tf

from parl_tf.tensors import log_mean_probability, majority_vote


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def test_log_mean_probability_against_numpy():
    logits = np.random.default_rng(0).normal(scale=3, size=(3, 7, 5))
    expected = np.log(softmax(logits).mean(axis=0))
    np.testing.assert_allclose(log_mean_probability(list(logits)), expected, atol=1e-12)


def test_softmax_cross_entropy_takes_it_as_logits_without_distortion():
    logits = np.random.default_rng(1).normal(size=(2, 6, 4))
    labels = np.arange(6) % 4
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, log_mean_probability(logits))
    mean = softmax(logits).mean(axis=0)
    np.testing.assert_allclose(loss, -np.log(mean[np.arange(6), labels]), atol=1e-12)


def test_saturated_members_keep_a_gradient():
    logits = tf.constant([[[200.0, 0.0]], [[300.0, 0.0]]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        fused = log_mean_probability(tf.unstack(logits))
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits([1], fused)
    assert np.isfinite(loss).all()
    assert np.abs(tape.gradient(loss, logits)).max() > 0.5


@pytest.mark.parametrize(
    ("votes", "winner", "tied"),
    [
        # Logits of three members over three classes.
        ([[9, 0, 0], [0, 1, 0], [0, 1, 0]], 1, False),  # two against one, however sure
        ([[3, 0, 0], [0, 2, 0], [0, 0, 1]], 0, True),  # three ways: the surest
        ([[1, 0, 0], [0, 1, 0], [0, 0, 5]], 2, True),
        ([[2, 0, 0], [2, 0, 0], [2, 0, 0]], 0, False),
    ],
)
def test_vote_of_three(votes, winner, tied):
    vote = majority_vote([tf.constant([member], tf.float32) for member in votes])
    assert vote.labels.numpy().tolist() == [winner]
    assert vote.tied.numpy().tolist() == [tied]


def test_tie_is_settled_among_the_tied_classes_only():
    # Two votes for 0, two for 1, and class 2 second for everyone: it has the highest sum.
    members = [[2.0, -9.0, 1.9]] * 2 + [[-9.0, 2.1, 2.0]] * 2
    summed = softmax(np.array(members)).sum(axis=0)
    assert summed.argmax() == 2
    vote = majority_vote([tf.constant([member]) for member in members])
    assert vote.labels.numpy()[0] == summed[:2].argmax()
    assert vote.tied.numpy()[0]


def test_half_precision_is_widened():
    logits = [tf.ones((1, 3), tf.bfloat16)] * 2
    assert log_mean_probability(logits).dtype == tf.float32
