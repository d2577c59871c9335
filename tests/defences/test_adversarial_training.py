"""Adversarial training against a plain PGD loop, and what it leaves alone."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import examples, logits_loss, plain_network, residual_network

import parl_tf
from parl_tf.defences import METHODS
from parl_tf.defences.adversarial_training import AdversarialTraining
from parl_tf.defences.crafting import random_start
from parl_tf.errors import InputError

SEED = tf.constant([3, 4])
LARGE = {"epsilon": 0.1, "step_size": 0.03, "num_steps": 4}


def loss_of(labels, logits):
    """Cross-entropy of each example, against the mean probability where there are several."""
    mean = tf.add_n([tf.nn.softmax(own) for own in logits]) / len(logits)
    return -tf.math.log(tf.gather(mean, labels, batch_dims=1))


def examples_by_hand(models, images, labels, seed, training, epsilon, step_size, num_steps):
    lower, upper = np.maximum(images - epsilon, 0), np.minimum(images + epsilon, 1)
    points = random_start(tf.constant(images), epsilon, seed)
    for _ in range(num_steps):
        with tf.GradientTape() as tape:
            tape.watch(points)
            loss = loss_of(labels, [model(points, training=training) for model in models])
        moved = points + step_size * np.sign(tape.gradient(loss, points))
        points = tf.constant(np.clip(moved, lower, upper))
    return points


def made(members, images, labels, **arguments):
    """The examples, one array a member."""

    def losses_of(logits):
        return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)

    settings = AdversarialTraining(**{**LARGE, **arguments})
    found = settings.examples(members, losses_of, tf.constant(images), SEED)
    return [x.numpy() for x in found] if tf.executing_eagerly() else found


def ensemble_of(network=plain_network, method="unprotected", training=LARGE, **arguments):
    members = [network(seed) for seed in range(2)]
    ensemble = METHODS[method](members, adversarial_training=training, **arguments)
    ensemble.compile(optimizer=keras.optimizers.SGD(0.1), loss=logits_loss(), jit_compile=False)
    return ensemble


def batch(count=6):
    images, labels = examples(count)
    return images.astype(keras.config.floatx()), labels


@pytest.mark.parametrize("batch_norm", ["moving", "batch"])
@pytest.mark.parametrize("against", ["members", "ensemble"])
def test_examples_are_those_of_a_plain_loop(float64, against, batch_norm):
    members = [residual_network(seed) for seed in range(2)]
    images, labels = batch()
    found = made(members, images, labels, against=against, batch_norm=batch_norm)
    for index, member in enumerate(members):
        together = against == "ensemble"
        expected = examples_by_hand(
            members if together else [member],
            images,
            labels,
            SEED if together else tf.random.fold_in(SEED, index, alg="philox"),
            batch_norm == "batch",
            **LARGE,
        )
        np.testing.assert_allclose(found[index], expected, atol=1e-9)


@pytest.mark.slow
def test_examples_are_the_same_by_xla(float64):
    members = [residual_network(seed) for seed in range(2)]
    images, labels = batch()
    plain, compiled = (
        tf.function(lambda: made(members, images, labels), jit_compile=jit)()
        for jit in (False, True)
    )
    for one, other in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_examples_in_half_precision_raise_the_loss():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        members = [residual_network(seed) for seed in range(2)]
    finally:
        keras.config.set_dtype_policy("float32")
    images, labels = batch()
    for member, found in zip(members, made(members, images, labels), strict=True):
        before, after = (loss_of(labels, [tf.cast(member(x), "float32")]) for x in (images, found))
        assert (after > before).numpy().all()


def test_examples_are_within_epsilon_and_the_range_of_pixels():
    images, labels = batch()
    images = np.round(images)  # all pixels are 0 or 1
    for found in made([plain_network(seed) for seed in range(2)], images, labels):
        assert 0.099 < np.abs(found - images).max() < 0.1 + 1e-6
        assert found.min() >= 0
        assert found.max() <= 1


@pytest.mark.parametrize("against", ["members", "ensemble"])
def test_loss_is_higher_at_examples(against):
    members = [residual_network(seed) for seed in range(2)]
    images, labels = batch()
    found = made(members, images, labels, against=against)
    judged = [members] if against == "ensemble" else [[member] for member in members]
    for models, adversarial in zip(judged, found, strict=False):
        before, after = (loss_of(labels, [m(x) for m in models]) for x in (images, adversarial))
        assert (after > before).numpy().all()


def test_equal_members_get_starts_of_their_own():
    members = [plain_network(0), plain_network(0)]
    first, second = made(members, *batch(), num_steps=1)
    assert (first != second).mean() > 0.9


@pytest.mark.parametrize("batch_norm", ["moving", "batch"])
def test_crafting_changes_no_variable(batch_norm):
    ensemble = ensemble_of(residual_network, training={**LARGE, "batch_norm": batch_norm})
    before = [v.numpy() for v in ensemble.variables]
    images, labels = map(tf.constant, batch())
    tf.function(ensemble.craft)(images, labels, None)
    for variable, expected in zip(ensemble.variables, before, strict=True):
        np.testing.assert_array_equal(variable, expected)


@pytest.mark.parametrize("against", ["members", "ensemble"])
def test_cross_entropy_is_that_of_the_examples(float64, against):
    ensemble = ensemble_of(training={**LARGE, "against": against})
    images, labels = batch()
    views = ensemble.adversarial_training.examples(
        ensemble.members,
        lambda logits: ensemble.example_losses(tf.constant(labels), logits),
        tf.constant(images),
        ensemble.step_seed("adversarial training"),
    )
    expected = sum(
        np.mean(loss_of(labels, [member(view)]))
        for member, view in zip(ensemble.members, views, strict=True)
    )
    logs = ensemble.train_on_batch(images, labels, return_dict=True)
    assert logs["cross_entropy"] == pytest.approx(expected, rel=1e-9)
    assert logs["loss"] == pytest.approx(expected, rel=1e-9)


def test_validation_is_of_the_images_as_they_are():
    images, labels = batch()
    logs = ensemble_of().evaluate(images, labels, verbose=0, return_dict=True)
    clean = ensemble_of(training=None).evaluate(images, labels, verbose=0, return_dict=True)
    assert logs == pytest.approx(clean, rel=1e-6)


@pytest.mark.parametrize(("method", "arguments"), [("parl", {"num_layers": 2}), ("adp", {})])
def test_terms_of_a_method_stay_those_of_the_images(method, arguments):
    logs, clean = (
        ensemble_of(method=method, training=training, **arguments).train_on_batch(
            *batch(), return_dict=True
        )
        for training in (LARGE, None)
    )
    terms = ensemble_of(method=method, **arguments).term_weights
    assert terms
    for term in terms:
        assert logs[term] == pytest.approx(clean[term], rel=1e-5), term
    assert logs["cross_entropy"] > clean["cross_entropy"] + 0.1


def test_draws_follow_from_the_seed_and_the_step():
    images, labels = map(tf.constant, batch())
    first, equal, other = (ensemble_of(seed=seed) for seed in (1, 1, 2))

    def starts(ensemble, step):
        ensemble.optimizer.iterations.assign(step)
        return np.concatenate([views[0] for views in ensemble.craft(images, labels, None)])

    np.testing.assert_array_equal(starts(first, 5), starts(equal, 5))
    for unlike in (starts(first, 6), starts(other, 5)):
        assert (unlike != starts(first, 5)).mean() > 0.5


def test_a_mapping_is_as_good_and_the_config_round_trips():
    settings = AdversarialTraining(**LARGE, against="ensemble", batch_norm="batch")
    members = [plain_network(seed) for seed in range(2)]
    ensemble = parl_tf.Ensemble(members, adversarial_training=settings)
    config = json.loads(json.dumps(ensemble.get_config()))
    mapping = {**LARGE, "against": "ensemble", "batch_norm": "batch"}
    assert config["adversarial_training"] == mapping
    assert parl_tf.Ensemble.from_config(config).adversarial_training == settings
    again = parl_tf.Ensemble(members, adversarial_training=mapping)
    assert again.adversarial_training == settings


def test_the_standard_attack_is_the_default():
    expected = AdversarialTraining(epsilon=8 / 255, step_size=2 / 255, num_steps=10)
    assert ensemble_of(training={}).adversarial_training == expected
    assert ensemble_of(training=None).adversarial_training is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0}, "epsilon in .0, 1.. Received: 0"),
        ({"epsilon": 8}, "epsilon in .0, 1.. Received: 8"),
        ({"epsilon": float("nan")}, "epsilon in"),
        ({"step_size": 0.2}, "step_size in .0, epsilon.*Received: 0.2"),
        ({"step_size": 0}, "step_size in"),
        ({"num_steps": 0}, "num_steps of at least 1. Received: 0"),
        ({"against": "nobody"}, "Unknown against"),
        ({"batch_norm": "none"}, "Unknown batch_norm"),
    ],
)
def test_refuses_bad_values(arguments, message):
    with pytest.raises(InputError, match=message):
        ensemble_of(training={**LARGE, **arguments})


@pytest.mark.parametrize("given", [True, "members", {"eps": 0.1}])
def test_refuses_what_is_no_adversarial_training(given):
    with pytest.raises(InputError, match="adversarial_training as an AdversarialTraining"):
        parl_tf.Ensemble([plain_network(0), plain_network(1)], adversarial_training=given)
