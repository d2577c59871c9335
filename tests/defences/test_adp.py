"""ADP against determinants known beforehand, plain NumPy and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.derivatives import assert_step_follows_the_loss
from harness.networks import logits_loss

import parl_tf
from parl_tf.defences.forward import ForwardPass

OFFSET = 1e-6


def smooth_network(seed, num_classes=4):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((3, 3, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.Dense(num_classes, bias_initializer="random_normal"),
        ]
    )


def ensemble_of(num_members=3, num_classes=4, loss=None, **arguments):
    members = [smooth_network(seed, num_classes) for seed in range(num_members)]
    ensemble = parl_tf.ADP(members, **arguments)
    ensemble.compile(
        optimizer=keras.optimizers.SGD(1.0), loss=loss or logits_loss(), run_eagerly=True
    )
    return ensemble


def batch(count=6, num_classes=4):
    generator = np.random.default_rng(0)
    return generator.uniform(size=(count, 3, 3, 1)), generator.integers(num_classes, size=count)


def random_logits(num_members, count=6, num_classes=5):
    return np.random.default_rng(0).normal(size=(num_members, count, num_classes))


def terms_of(logits, classes):
    """Terms for logits (members, batch, classes), and each one's derivative, without a network."""
    num_members, _, num_classes = np.shape(logits)
    logits = [tf.constant(own) for own in logits]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        forward = ForwardPass(
            inputs=None,
            labels=None,
            classes=tf.constant(classes, tf.int64),
            logits=logits,
            layers=[],
            example_losses=[],
            tape=None,
            training=True,
        )
        terms = ensemble_of(num_members, num_classes).terms(forward)
    gradients = {name: np.array(tape.gradient(term, logits)) for name, term in terms.items()}
    return {name: float(term) for name, term in terms.items()}, gradients


def terms_by_hand(logits, classes):
    """Mean entropy and mean logarithm of the determinant."""
    powers = np.exp(logits)
    probabilities = powers / powers.sum(axis=-1, keepdims=True)
    mean = probabilities.mean(axis=0)
    entropies = -np.sum(mean * np.log(mean), axis=-1)
    determinants = []
    for rows, true in zip(probabilities.swapaxes(0, 1), classes, strict=True):
        others = np.delete(rows, true, axis=1)
        others /= np.linalg.norm(others, axis=1, keepdims=True)
        gram = others @ others.T + OFFSET * np.eye(len(others))
        determinants.append(np.linalg.slogdet(gram)[1])
    return {"entropy": entropies.mean(), "log_determinant": np.mean(determinants)}


def determinant_of_equals(num_members):
    """Logarithm of the product of the eigenvalues, for equal predictions."""
    return np.log((num_members + OFFSET) * OFFSET ** (num_members - 1))


@pytest.mark.parametrize("num_members", [2, 3, 4])
def test_terms_against_numpy(num_members):
    classes = [0, 1, 2, 3, 4, 2]
    logits = random_logits(num_members)
    expected = terms_by_hand(logits, classes)
    assert terms_of(logits, classes)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num_members", [2, 3, 4])
def test_orthogonal_predictions_span_a_volume_of_one(num_members):
    logits = 1e4 * np.eye(5, dtype="float32")[:num_members, np.newaxis]
    found = terms_of(logits, [4])[0]
    assert found["log_determinant"] == pytest.approx(num_members * np.log1p(OFFSET), rel=1e-5)
    assert found["entropy"] == pytest.approx(np.log(num_members), rel=1e-6)


@pytest.mark.parametrize("num_members", [2, 3, 4])
def test_identical_predictions_leave_the_offset(num_members):
    logits = random_logits(1).astype("float32").repeat(num_members, axis=0)
    found = terms_of(logits, [0, 1, 2, 3, 4, 2])[0]["log_determinant"]
    assert found == pytest.approx(determinant_of_equals(num_members), rel=1e-6)


def test_nearly_identical_predictions_keep_their_determinant_in_float32():
    logits = random_logits(1) + 1e-3 * random_logits(3)
    classes = [0, 1, 2, 3, 4, 2]
    expected = terms_by_hand(logits, classes)["log_determinant"]
    found = terms_of(logits.astype("float32"), classes)[0]["log_determinant"]
    assert determinant_of_equals(3) + 0.1 < expected
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("chosen", "log_determinant"),
    [
        ((2, 2, 2), determinant_of_equals(3)),  # all right: nothing is said about the others
        ((1, 1, 1), determinant_of_equals(3)),  # all wrong in the same way
        ((0, 1, 3), 3 * np.log1p(OFFSET)),  # each wrong in its own way
    ],
)
def test_saturated_predictions(chosen, log_determinant):
    logits = np.full((3, 4, 4), -1e4, "float32")
    logits[range(3), :, chosen] = 1e4
    found, gradients = terms_of(logits, [2, 2, 2, 2])
    assert found["log_determinant"] == pytest.approx(log_determinant, rel=1e-5)
    assert found["entropy"] == pytest.approx(np.log(len(set(chosen))), abs=1e-6)
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name


def test_how_sure_of_the_true_class_a_member_is_does_not_matter_to_the_determinant():
    classes = [0, 1, 2, 3, 4, 2]
    logits = random_logits(3).astype("float32")
    expected = terms_of(logits, classes)[0]["log_determinant"]
    logits[:, range(6), classes] = np.float32([[-1e4], [0], [1e4]])
    found, gradients = terms_of(logits, classes)
    assert found["log_determinant"] == pytest.approx(expected, rel=1e-6)
    assert (gradients["log_determinant"][:, range(6), classes] == 0).all()


def test_loss_sums_cross_entropies_and_rewards_both_terms(float64):
    ensemble = ensemble_of()
    images, labels = batch()
    logits = np.array([member(images) for member in ensemble.members])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    cross_entropy = -np.log(probabilities[:, range(6), labels]).mean(axis=1).sum()
    terms = terms_by_hand(logits, labels)
    found = ensemble.evaluate(images, labels, verbose=0, return_dict=True)
    expected = cross_entropy - 2 * terms["entropy"] - 0.5 * terms["log_determinant"]
    assert found["loss"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("term", ["entropy", "determinant"])
def test_a_step_raises_a_term_on_its_own(term):
    weights = {"entropy_weight": 0.0, "determinant_weight": 0.0, f"{term}_weight": 0.1}
    ensemble = ensemble_of(accuracy_weight=0.0, **weights)
    images, labels = batch()
    before, after = (ensemble.train_on_batch(images, labels, return_dict=True) for _ in range(2))
    name = {"entropy": "entropy", "determinant": "log_determinant"}[term]
    assert after[name] > before[name]


def test_derivative_against_finite_differences(float64):
    assert_step_follows_the_loss(ensemble_of(), *batch())


def test_two_classes_leave_one_direction_only():
    ensemble = ensemble_of(num_classes=2)
    logs = ensemble.train_on_batch(*batch(num_classes=2), return_dict=True)
    assert logs["log_determinant"] == pytest.approx(determinant_of_equals(3), rel=1e-6)
    assert all(np.isfinite(value) for value in logs.values())
    assert all(np.isfinite(weight).all() for weight in ensemble.get_weights())


def test_one_hot_labels_are_the_same_as_numbers():
    images, labels = batch()
    numbers = ensemble_of()
    one_hot = ensemble_of(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    expected = numbers.train_on_batch(images, labels, return_dict=True)
    found = one_hot.train_on_batch(images, np.eye(4)[labels], return_dict=True)
    assert found == pytest.approx(expected, rel=1e-6)
    for ours, theirs in zip(one_hot.get_weights(), numbers.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
