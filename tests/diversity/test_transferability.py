"""Transfer and agreement against attacks written out, one member at a time."""

import numpy as np
import pytest
import tensorflow as tf
from harness.networks import NUM_CLASSES, examples, plain_network, residual_network

import parl_tf
from parl_tf.attacks.iterative import BIM, FGSM, PGD
from parl_tf.diversity.transferability import member_transfer
from parl_tf.errors import InputError

EPSILON = 0.03


def balanced(network):
    """A network whose logits are 0 on average, so that it predicts every class."""
    logits = network(examples(50, seed=1)[0], training=False)
    network.layers[-1].bias.assign_sub(np.mean(logits, axis=0))
    return network


MEMBERS = [balanced(residual_network(0)), balanced(plain_network(1)), balanced(residual_network(2))]
ENSEMBLE = parl_tf.Ensemble(MEMBERS)
PAIR = parl_tf.Ensemble(MEMBERS[::2])


def predicted(member, images):
    return np.argmax(member(images, training=False), axis=1)


def labelled(count):
    """Images, and labels by turns from a member's prediction, so that each gets some right."""
    images, _ = examples(count)
    answers = np.array([predicted(member, images) for member in MEMBERS])
    return images, answers[np.arange(count) % len(MEMBERS), np.arange(count)]


def mean_probability(images):
    return sum(tf.nn.softmax(member(images, training=False)) for member in MEMBERS) / len(MEMBERS)


def crafted(probability, images, labels, num_steps, step):
    """Steps along the sign of the gradient of each image's own loss."""
    found = images
    for _ in range(num_steps):
        pixels = tf.Variable(found)
        with tf.GradientTape() as tape:
            loss = -tf.math.log(tf.gather(probability(pixels), labels, batch_dims=1))
        sign = np.sign(tape.gradient(loss, pixels))
        found = np.clip(found + np.float32(step) * sign, images - EPSILON, images + EPSILON)
        found = np.clip(found, 0, 1).astype("float32")
    return found


def agreement(images):
    answers = [predicted(member, images) for member in MEMBERS]
    return [[np.mean(first == second) for second in answers] for first in answers]


@pytest.mark.parametrize(
    ("attack", "num_steps", "step"),
    [(FGSM(), 1, EPSILON), (BIM(num_steps=4), 4, EPSILON / 5)],
    ids=["fgsm", "bim"],
)
def test_transfer_equals_a_computation_member_by_member(attack, num_steps, step):
    images, labels = labelled(21)
    found = member_transfer(ENSEMBLE, attack, EPSILON, images, labels, batch_size=8)
    expected = np.zeros((3, 3))
    for row, source in enumerate(MEMBERS):

        def probability(pixels, source=source):
            return tf.nn.softmax(source(pixels, training=False))

        attacked = crafted(probability, images, labels, num_steps, step)
        for column, judged in enumerate(MEMBERS):
            right = predicted(judged, images) == labels
            wrong = predicted(judged, attacked) != labels
            expected[row, column] = np.sum(right & wrong) / np.sum(right)
    np.testing.assert_allclose(found.success, expected, atol=1e-12)
    assert len(np.unique(found.success)) > 3
    assert not np.array_equal(found.success, found.success.T)
    np.testing.assert_allclose(found.agreement_clean, agreement(images), atol=1e-12)
    on_ensemble = crafted(mean_probability, images, labels, num_steps, step)
    np.testing.assert_allclose(found.agreement_adversarial, agreement(on_ensemble), atol=1e-12)
    assert not np.array_equal(found.agreement_adversarial, found.agreement_clean)
    for matrix in (found.success, found.agreement_clean, found.agreement_adversarial):
        assert matrix.shape == (3, 3)
        assert matrix.dtype == "float64"


def test_the_first_restart_counts_and_the_batch_size_does_not():
    images, labels = labelled(17)
    several, one = (PGD(num_steps=2, restarts=restarts) for restarts in (3, 1))
    found = member_transfer(PAIR, several, EPSILON, images, labels, seed=7)
    again = member_transfer(PAIR, one, EPSILON, images, labels, seed=7, batch_size=5)
    np.testing.assert_array_equal(found.success, again.success)
    np.testing.assert_array_equal(found.agreement_adversarial, again.agreement_adversarial)


def test_the_seed_reaches_the_attack():
    images, labels = labelled(40)
    attack = PGD(num_steps=1, step_size=0.001, restarts=1)
    first, second = (
        member_transfer(PAIR, attack, EPSILON, images, labels, seed=seed) for seed in (0, 1)
    )
    np.testing.assert_array_equal(first.agreement_clean, second.agreement_clean)
    assert not np.array_equal(first.success, second.success)


def test_a_member_that_gets_nothing_right_has_no_success():
    images, _ = examples(12)
    first, second = (predicted(member, images) for member in PAIR.members)
    labels = np.where(first == second, (first + 1) % NUM_CLASSES, first)
    assert np.any(first == labels)
    found = member_transfer(PAIR, FGSM(), EPSILON, images, labels)
    assert np.isfinite(found.success[:, 0]).all()
    assert np.isnan(found.success[:, 1]).all()


def test_refuses_what_cannot_be_measured():
    images, labels = labelled(6)

    def measure(ensemble=ENSEMBLE, attack=None, epsilon=EPSILON, **changed):
        arguments = {"images": images, "labels": labels, **changed}
        return member_transfer(ensemble, attack or FGSM(), epsilon, **arguments)

    with pytest.raises(InputError, match="Expected an Ensemble"):
        measure(ensemble=MEMBERS[0])
    with pytest.raises(InputError, match="Expected an attack such as"):
        measure(attack="fgsm")
    with pytest.raises(InputError, match=r"epsilon in \(0, 1\].*Received: 8"):
        measure(epsilon=8)
    with pytest.raises(InputError, match="6 integer labels"):
        measure(labels=labels[:5])
    with pytest.raises(InputError, match="labels from 0 to 3"):
        measure(labels=labels + 4)
    with pytest.raises(InputError, match=r"shape \(8, 8, 3\).*Received: \(7, 8, 3\)"):
        measure(images=images[:, 1:])
    with pytest.raises(InputError, match="seed from 0"):
        measure(seed=-1)
    with pytest.raises(InputError, match="batch_size of at least 1. Received: 0"):
        measure(batch_size=0)


def test_refuses_logits_that_are_not_finite():
    members = [residual_network(0), residual_network(1)]
    members[1].layers[-1].bias.assign(np.full(NUM_CLASSES, np.nan))
    with pytest.raises(InputError, match="Expected finite logits"):
        member_transfer(parl_tf.Ensemble(members), FGSM(), EPSILON, *labelled(4))
