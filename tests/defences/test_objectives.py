"""Losses and fusions of the gradient attacks, against the same computations written out."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from harness.networks import IMAGE_SHAPE, NUM_CLASSES, examples, plain_network
from scipy.special import logsumexp

import parl_tf
from parl_tf.attacks.gradient import FUSIONS, LOSSES, fused_logits
from parl_tf.attacks.iterative import BIM, FGSM, PGD
from parl_tf.attacks.momentum import MIFGSM, MIM

ENSEMBLE = parl_tf.Ensemble([plain_network(0), plain_network(1)])
EPSILON = 0.06
STEP = np.float32(EPSILON) / np.float32(5)
CASES = list(itertools.product(LOSSES, FUSIONS))


def value_by_hand(loss, fusion, labels, logits):
    """The loss of each image in NumPy, from members' logits (members, batch, classes)."""
    logs = logits - logsumexp(logits, axis=-1, keepdims=True)
    fused = {
        "probabilities": [logsumexp(logs, axis=0) - np.log(len(logits))],
        "logits": [logits.mean(axis=0)],
        "losses": logits,
    }[fusion]
    values = []
    for member in fused:
        true = np.take_along_axis(member, labels[:, None], axis=1)[:, 0]
        others = [np.delete(row, label) for row, label in zip(member, labels, strict=True)]
        top = logsumexp(member, axis=1) if loss == "cross_entropy" else np.max(others, axis=1)
        values.append(top - true)
    return np.mean(values, axis=0)


def loss_by_hand(labels, logits, loss, fusion):
    """The loss in TensorFlow, from members' logits (members, batch, classes)."""
    logits = tf.stack(logits)
    if fusion == "probabilities":
        fused = [tf.math.log(tf.reduce_mean(tf.nn.softmax(logits), axis=0))]
    else:
        fused = [tf.reduce_mean(logits, axis=0)] if fusion == "logits" else tf.unstack(logits)
    chosen = tf.one_hot(labels, NUM_CLASSES)
    values = []
    for member in fused:
        hidden = tf.reduce_max(member - 1e9 * chosen, axis=1)
        top = tf.reduce_logsumexp(member, axis=1) if loss == "cross_entropy" else hidden
        values.append(top - tf.reduce_sum(chosen * member, axis=1))
    return tf.reduce_mean(tf.stack(values), axis=0)


def logits_and_labels(members, scale):
    generator = np.random.default_rng(members)
    logits = scale * generator.normal(size=(members, 6, 5))
    return logits, generator.integers(5, size=6)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("loss", "fusion"), CASES)
def test_objective_against_numpy(loss, fusion, members, scale):
    logits, labels = logits_and_labels(members, scale)
    expected = value_by_hand(loss, fusion, labels, logits)
    objective = FGSM(loss=loss, fusion=fusion).objective
    np.testing.assert_allclose(
        objective(labels, tf.nn.log_softmax(logits)), expected, rtol=1e-12, atol=1e-12
    )
    single = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    np.testing.assert_allclose(objective(labels, single), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("loss", "fusion"), CASES)
def test_gradient_of_the_objective_against_finite_differences(loss, fusion, members):
    logits, labels = logits_and_labels(members, 2.0)
    objective = FGSM(loss=loss, fusion=fusion).objective
    with tf.GradientTape() as tape:
        variable = tf.constant(logits)
        tape.watch(variable)
        total = tf.reduce_sum(objective(labels, tf.nn.log_softmax(variable)))
    steps = 1e-6 * np.eye(logits.size).reshape(-1, *logits.shape)
    expected = [
        np.sum(value_by_hand(loss, fusion, labels, logits + step))
        - np.sum(value_by_hand(loss, fusion, labels, logits - step))
        for step in steps
    ]
    expected = np.reshape(expected, logits.shape) / 2e-6
    np.testing.assert_allclose(tape.gradient(total, variable), expected, atol=1e-7)


@pytest.mark.parametrize(("loss", "fusion"), CASES)
def test_a_saturated_true_class_keeps_its_gradient(loss, fusion):
    logits = tf.constant([[[200.0, 0.0, -50.0]], [[300.0, 1.0, 2.0]]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        logs = tf.nn.log_softmax(logits)
        total = tf.reduce_sum(FGSM(loss=loss, fusion=fusion).objective([1], logs))
    gradient = tape.gradient(total, logits).numpy()
    assert np.isfinite(gradient).all()
    assert gradient[..., 1].sum() == pytest.approx(-1, abs=1e-5)


def test_fused_logits_are_the_log_of_the_mean_probability():
    logits, _ = logits_and_labels(3, 4.0)
    logs = logits - logsumexp(logits, axis=-1, keepdims=True)
    found = fused_logits(lambda images: tf.constant(logs), None)
    np.testing.assert_allclose(np.exp(found), np.exp(logs).mean(axis=0), rtol=1e-12)


def steps_by_hand(images, labels, start, loss_of, *, num_steps, step, decay_factor):
    adversarial, momentum = start, np.zeros_like(start)
    for _ in range(num_steps):
        pixels = tf.constant(adversarial)
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            logits = [member(pixels, training=False) for member in ENSEMBLE.members]
            loss = loss_of(labels, logits)
        gradient = tape.gradient(loss, pixels).numpy()
        size = np.abs(gradient).sum(axis=(1, 2, 3), keepdims=True)
        momentum = decay_factor * momentum + gradient / size
        moved = adversarial + step * np.sign(momentum)
        moved = images + np.clip(moved - images, -np.float32(EPSILON), np.float32(EPSILON))
        adversarial = np.clip(moved, 0, 1)
    return adversarial


@pytest.mark.parametrize(
    ("attack", "options", "num_steps", "step", "decay_factor"),
    [
        (FGSM, {}, 1, np.float32(EPSILON), 0.0),
        (BIM, {"num_steps": 4}, 4, STEP, 0.0),
        (PGD, {"num_steps": 4}, 4, STEP, 0.0),
        (MIM, {"num_steps": 4}, 4, STEP, 0.01),
        (MIFGSM, {"num_steps": 4}, 4, STEP, 1.0),
    ],
)
@pytest.mark.parametrize(("loss", "fusion"), CASES)
def test_attack_is_the_loop_by_hand(loss, fusion, attack, options, num_steps, step, decay_factor):
    images, labels = examples(7)
    start = images
    if attack is PGD:
        draws = [np.random.default_rng((5, 0, i)).uniform(-1, 1, IMAGE_SHAPE) for i in range(7)]
        start = np.clip(images + np.float32(EPSILON) * np.float32(draws), 0, 1)
    expected = steps_by_hand(
        images,
        labels,
        start,
        functools.partial(loss_by_hand, loss=loss, fusion=fusion),
        num_steps=num_steps,
        step=step,
        decay_factor=decay_factor,
    )
    crafter = attack(loss=loss, fusion=fusion, **options)
    found = crafter(ENSEMBLE, images, labels, epsilon=EPSILON, seed=5, batch_size=4)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("loss", "fusion"), CASES)
def test_fgsm_equals_eager_cleverhans_with_that_loss(loss, fusion):
    images, labels = examples(9)
    expected = fast_gradient_method(
        lambda x: tf.stack([member(x, training=False) for member in ENSEMBLE.members]),
        images,
        EPSILON,
        np.inf,
        loss_fn=functools.partial(loss_by_hand, loss=loss, fusion=fusion),
        y=labels,
        clip_min=0.0,
        clip_max=1.0,
    )
    found = FGSM(loss=loss, fusion=fusion)(ENSEMBLE, images, labels, epsilon=EPSILON)
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_losses_and_fusions_are_different_attacks_on_an_ensemble():
    images, labels = examples(9)
    found = [
        FGSM(loss=loss, fusion=fusion)(ENSEMBLE, images, labels, epsilon=EPSILON)
        for loss, fusion in CASES
    ]
    for first, second in itertools.combinations(found, 2):
        assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("attack", [FGSM(), MIFGSM(num_steps=4)])
def test_fusions_agree_on_a_single_classifier(attack, loss):
    images, labels = examples(6)
    probabilities, logits, losses = (
        dataclasses.replace(attack, loss=loss, fusion=fusion)(
            ENSEMBLE.members[0], images, labels, epsilon=EPSILON
        )
        for fusion in FUSIONS
    )
    np.testing.assert_allclose(logits, probabilities, atol=1e-6)
    np.testing.assert_allclose(losses, probabilities, atol=1e-6)
