"""GAL against gradients by hand and finite differences."""

import itertools

import keras
import numpy as np
import pytest
from harness.derivatives import assert_step_follows_the_loss
from harness.networks import logits_loss

import parl_tf


def smooth_network(seed, *between):
    """Two dense layers, with a smooth activation and perhaps other layers between."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((3, 3, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="tanh", bias_initializer="random_normal"),
            *between,
            keras.layers.Dense(4, bias_initializer="random_normal"),
        ]
    )


def normalized_network(seed):
    return smooth_network(seed, keras.layers.BatchNormalization())


def ensemble_of(num_members=3, network=smooth_network, **arguments):
    members = [network(seed) for seed in range(num_members)]
    ensemble = parl_tf.GAL(members, **arguments)
    ensemble.compile(optimizer=keras.optimizers.SGD(1.0), loss=logits_loss(), run_eagerly=True)
    return ensemble


def saturate(member, chosen, others=-1e4):
    """Makes every prediction a probability of 1 for one class."""
    member.layers[-1].bias.assign([1e4 if number == chosen else others for number in range(4)])


def batch(count=6):
    generator = np.random.default_rng(0)
    images = generator.uniform(size=(count, 3, 3, 2)).astype(keras.config.floatx())
    return images, generator.integers(4, size=count)


def evaluated(ensemble, images, labels):
    return ensemble.evaluate(images, labels, batch_size=len(images), verbose=0, return_dict=True)


def losses_and_gradients_by_hand(network, images, labels):
    """Each example's cross-entropy for `smooth_network`, and its gradient (batch, pixels)."""
    first, offset, second, bias = network.get_weights()
    hidden = np.tanh(images.reshape(len(images), -1) @ first + offset)
    powers = np.exp(hidden @ second + bias)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    errors = probabilities - np.eye(4)[labels]
    losses = -np.log(probabilities[range(len(labels)), labels])
    return losses, ((errors @ second.T) * (1 - hidden**2)) @ first.T


def coherence_by_hand(members, images, labels):
    gradients = [losses_and_gradients_by_hand(member, images, labels)[1] for member in members]
    units = [own / np.linalg.norm(own, axis=1, keepdims=True) for own in gradients]
    powers = [np.exp(np.sum(a * b, axis=1)) for a, b in itertools.combinations(units, 2)]
    return np.mean(np.log(np.sum(powers, axis=0)))


@pytest.mark.parametrize("num_members", [2, 3, 4])
def test_coherence_against_gradients_by_hand(float64, num_members):
    ensemble = ensemble_of(num_members)
    images, labels = batch()
    expected = coherence_by_hand(ensemble.members, images, labels)
    assert evaluated(ensemble, images, labels)["coherence"] == pytest.approx(expected, rel=1e-9)


def test_loss_is_the_mean_cross_entropy_and_half_the_coherence(float64):
    ensemble = ensemble_of()
    images, labels = batch()
    losses = [losses_and_gradients_by_hand(m, images, labels)[0] for m in ensemble.members]
    expected = np.mean(losses) + 0.5 * coherence_by_hand(ensemble.members, images, labels)
    assert evaluated(ensemble, images, labels)["loss"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num_members", [2, 3, 4])
def test_identical_members_reach_the_largest_coherence(num_members):
    ensemble = ensemble_of(num_members, lambda seed: normalized_network(7))
    pairs = num_members * (num_members - 1) / 2
    found = evaluated(ensemble, *batch())["coherence"]
    assert found == pytest.approx(np.log(pairs) + 1, rel=1e-6)


@pytest.mark.parametrize("num_members", [2, 3])
def test_zero_gradients_have_cosine_zero_and_move_nothing(num_members):
    ensemble = ensemble_of(num_members)
    for member in ensemble.members:
        saturate(member, 2)
    before = ensemble.get_weights()
    logs = ensemble.train_on_batch(batch()[0], np.full(6, 2), return_dict=True)
    pairs = num_members * (num_members - 1) / 2
    assert logs["coherence"] == pytest.approx(np.log(pairs), abs=1e-6)
    for found, expected in zip(ensemble.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_one_member_with_zero_gradients_leaves_the_others_their_cosine(float64):
    ensemble = ensemble_of()
    saturate(ensemble.members[1], 2)
    images, labels = batch()[0], np.full(6, 2)
    others = [ensemble.members[0], ensemble.members[2]]
    gradients = [losses_and_gradients_by_hand(m, images, labels)[1] for m in others]
    first, second = (own / np.linalg.norm(own, axis=1, keepdims=True) for own in gradients)
    expected = np.mean(np.log(np.exp(np.sum(first * second, axis=1)) + 2))
    assert evaluated(ensemble, images, labels)["coherence"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("chosen", [(2, 2, 2), (1, 1, 1), (0, 1, 2)])
def test_saturated_predictions_train_to_finite_weights(chosen):
    ensemble = ensemble_of()
    for member, number in zip(ensemble.members, chosen, strict=True):
        saturate(member, number)
    logs = ensemble.train_on_batch(batch()[0], np.full(6, 2), return_dict=True)
    assert all(np.isfinite(value) for value in logs.values()), logs
    assert all(np.isfinite(weight).all() for weight in ensemble.get_weights())


def test_derivative_against_finite_differences(float64):
    assert_step_follows_the_loss(ensemble_of(coherence_weight=2.0), *batch())


def test_a_step_lowers_the_coherence_on_its_own():
    ensemble = ensemble_of(accuracy_weight=0.0)
    images, labels = batch()
    before, after = (ensemble.train_on_batch(images, labels, return_dict=True) for _ in range(2))
    assert after["coherence"] < before["coherence"]


@pytest.mark.parametrize("count", [1, 3])
def test_small_batches_of_a_single_class_train_to_finite_weights(count):
    ensemble = ensemble_of(network=normalized_network)
    logs = ensemble.train_on_batch(batch(count)[0], np.full(count, 2), return_dict=True)
    assert all(np.isfinite(value) for value in logs.values()), logs
    assert all(np.isfinite(weight).all() for weight in ensemble.get_weights())
