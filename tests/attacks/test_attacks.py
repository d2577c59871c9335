"""Attacks against CleverHans's own functions, and against their promises."""

import dataclasses

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks import projected_gradient_descent as cleverhans_pgd
from cleverhans.tf2.attacks.basic_iterative_method import basic_iterative_method
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from harness.networks import IMAGE_SHAPE, NUM_CLASSES, examples, plain_network, residual_network
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import parl_tf
from parl_tf.attacks import ATTACKS
from parl_tf.attacks.base import Attack
from parl_tf.attacks.iterative import BIM, FGSM, PGD
from parl_tf.attacks.momentum import MIM
from parl_tf.attacks.uniform_noise import UniformNoise
from parl_tf.errors import InputError

ENSEMBLE = parl_tf.Ensemble([residual_network(0), plain_network(1)])
RESIDUAL = parl_tf.Ensemble([residual_network(0), residual_network(1)])
EPSILON = 0.06
STEP = np.float32(EPSILON) / np.float32(5)
BOUNDS = {"clip_min": 0.0, "clip_max": 1.0}


def logits_of(images):
    return ENSEMBLE(images, training=False)


def cross_entropy(images, labels):
    loss = keras.losses.sparse_categorical_crossentropy(
        labels, ENSEMBLE(images, training=False), from_logits=True
    )
    return loss.numpy()


def test_fgsm_equals_eager_cleverhans():
    images, labels = examples(9)
    expected = fast_gradient_method(logits_of, images, EPSILON, np.inf, y=labels, **BOUNDS)
    found = FGSM()(ENSEMBLE, images, labels, epsilon=EPSILON, batch_size=4)
    np.testing.assert_array_equal(found, expected)


def test_bim_equals_eager_cleverhans():
    images, labels = examples(9)
    expected = basic_iterative_method(
        logits_of, images, EPSILON, STEP, 12, np.inf, y=labels, sanity_checks=False, **BOUNDS
    )
    found = BIM(num_steps=12)(ENSEMBLE, images, labels, epsilon=EPSILON, batch_size=4)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("decay_factor", [0.01, 1.0])
def test_mim_equals_eager_cleverhans(decay_factor):
    images, labels = examples(9)
    expected = momentum_iterative_method(
        logits_of,
        tf.constant(images),
        eps=EPSILON,
        eps_iter=STEP,
        nb_iter=12,
        y=labels,
        decay_factor=decay_factor,
        sanity_checks=False,
        **BOUNDS,
    )
    attack = MIM(num_steps=12, decay_factor=decay_factor)
    found = attack(ENSEMBLE, images, labels, epsilon=EPSILON, batch_size=4)
    np.testing.assert_array_equal(found, expected)


def test_pgd_equals_eager_cleverhans_from_the_same_start(monkeypatch):
    images, labels = examples(9)
    draws = [np.random.default_rng((5, 2, i)).uniform(-1, 1, IMAGE_SHAPE) for i in range(9)]
    monkeypatch.setattr(
        cleverhans_pgd,
        "random_lp_vector",
        lambda *args, **kwargs: tf.constant(
            np.float32(EPSILON) * np.stack(draws).astype("float32")
        ),
    )
    expected = cleverhans_pgd.projected_gradient_descent(
        logits_of, images, EPSILON, STEP, 12, np.inf, y=labels, rand_init=True, **BOUNDS
    )
    found = PGD(num_steps=12, restarts=3)(
        ENSEMBLE, images, labels, epsilon=EPSILON, seed=5, restart=2, batch_size=4
    )
    np.testing.assert_array_equal(found, expected)


def test_attacks_a_single_classifier_and_a_plain_function_alike():
    images, labels = examples(6)
    attack = BIM(num_steps=5)
    member = ENSEMBLE.members[0]
    single = attack(member, images, labels, epsilon=EPSILON)
    function = attack(lambda x: member(x, training=False), images, labels, epsilon=EPSILON)
    np.testing.assert_array_equal(single, function)


@pytest.mark.parametrize("attack", [FGSM(), BIM(num_steps=2), MIM(num_steps=2)])
def test_small_gradients_of_half_precision_are_not_taken_for_none(attack):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(4, dtype="mixed_float16")
    member = keras.Sequential([keras.Input(IMAGE_SHAPE), keras.layers.Flatten(), dense])
    kernel, _ = dense.get_weights()
    dense.set_weights([kernel, np.array([19.0, 0, 0, 0])])  # e^-19 rounds to 0 in float16
    images = np.random.default_rng(0).uniform(0.2, 0.8, (5, *IMAGE_SHAPE)).astype("float32")
    found = attack(member, images, np.zeros(5, "int64"), epsilon=0.1)
    assert np.mean(np.abs(found - images) > 0.01) > 0.9


@pytest.mark.slow
def test_more_budget_raises_the_loss_more():
    images, labels = examples(20)
    clean = cross_entropy(images, labels).mean()
    losses = [
        cross_entropy(attack(ENSEMBLE, images, labels, epsilon=epsilon), labels).mean()
        for epsilon in (0.02, 0.1)
        for attack in (FGSM(), BIM(num_steps=20))
    ]
    assert clean < losses[0] <= losses[1] + 1e-6 < losses[3] + 1e-6
    assert losses[0] < losses[2] <= losses[3] + 1e-6


def test_random_starts_follow_from_seed_restart_and_index_alone():
    images, labels = examples(8)
    attack = PGD(num_steps=2, restarts=2).prepare(ENSEMBLE)
    whole = attack(images, labels, epsilon=EPSILON, seed=3)
    tf.random.set_seed(99)
    np.random.seed(99)
    again = attack(images, labels, epsilon=EPSILON, seed=3, batch_size=3)
    np.testing.assert_allclose(whole, again, atol=1e-6)
    tail = attack(images[5:], labels[5:], epsilon=EPSILON, seed=3, first_index=5)
    np.testing.assert_allclose(whole[5:], tail, atol=1e-6)
    for other in ({"seed": 4}, {"seed": 3, "restart": 1}):
        assert np.abs(attack(images, labels, epsilon=EPSILON, **other) - whole).max() > 1e-3
    assert np.abs((whole[0] - images[0]) - (whole[1] - images[1])).max() > 1e-3


def test_one_trace_serves_every_strength_batch_and_restart():
    images, labels = examples(7)
    traces = []

    def counting(x):
        traces.append(tf.inside_function())
        return logits_of(x)

    attack = PGD(num_steps=3, restarts=2).prepare(counting)
    attack(images, labels, epsilon=0.01)
    before = len(traces)
    for restart in (0, 1):
        attack(images, labels, epsilon=0.02, restart=restart, batch_size=3)
    assert len(traces) == before


SHORT = {"hop-skip-jump": {"num_steps": 1, "num_queries": 10, "num_starts": 3}}


def short(name):
    """An attack of few steps, or queries."""
    budget = {"num_steps": 4, "num_queries": 6}
    fields = {field.name for field in dataclasses.fields(ATTACKS[name])}
    return ATTACKS[name](**SHORT.get(name, {key: budget[key] for key in fields & set(budget)}))


CRAFTERS = {name: short(name).prepare(RESIDUAL if name == "sgm" else ENSEMBLE) for name in ATTACKS}
PREDICTED = np.argmax(logits_of(examples(8)[0]), axis=1)


@pytest.mark.parametrize("name", ATTACKS)
def test_examples_stay_in_the_ball_and_in_the_pixel_range(name):
    @hypothesis.given(
        images=hnp.arrays("float32", (2, *IMAGE_SHAPE), elements=st.floats(0, 1, width=32)),
        labels=hnp.arrays("int64", 2, elements=st.integers(0, NUM_CLASSES - 1)),
        epsilon=st.floats(1e-4, 1),
        seed=st.integers(0, 2**31 - 1),
    )
    @hypothesis.settings(max_examples=15 if ATTACKS[name].in_graph else 5, deadline=None)
    def check(images, labels, epsilon, seed):
        adversarial = CRAFTERS[name](images, labels, epsilon=epsilon, seed=seed)
        assert adversarial.dtype == np.float32
        assert np.abs(adversarial.astype("float64") - images).max() <= epsilon + 2**-22
        assert adversarial.min() >= 0
        assert adversarial.max() <= 1

    check()


@pytest.mark.parametrize("name", ATTACKS)
def test_examples_follow_from_the_seed_alone(name):
    images, _ = examples(8)
    first = CRAFTERS[name](images, PREDICTED, epsilon=EPSILON, seed=3)
    tf.random.set_seed(99)
    np.random.seed(99)
    again = CRAFTERS[name](images, PREDICTED, epsilon=EPSILON, seed=3)
    np.testing.assert_array_equal(again, first)
    other = CRAFTERS[name](images, PREDICTED, epsilon=EPSILON, seed=4)
    draws = next(f.init for f in dataclasses.fields(ATTACKS[name]) if f.name == "restarts")
    assert (np.abs(other - first).max() > 1e-3) == draws
    assert np.abs(first - images).max() > 1e-3


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name].in_graph])
def test_examples_do_not_depend_on_the_batch(name):
    images, _ = examples(8)
    whole, parts = (
        CRAFTERS[name](images, PREDICTED, epsilon=EPSILON, seed=3, batch_size=batch_size)
        for batch_size in (250, 3)
    )
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    tail = CRAFTERS[name](images[5:], PREDICTED[5:], epsilon=EPSILON, seed=3, first_index=5)
    np.testing.assert_allclose(tail, whole[5:], atol=1e-6)


def test_leaves_are_given_members_log_probabilities_and_seeds():
    given = []

    class Spy(Attack):
        name = "spy"
        in_graph = False

        def perturb(self, model, batch):
            given.append((model(batch.images).numpy(), batch))
            return batch.images

    images, labels = examples(5)
    Spy()(ENSEMBLE, images, labels, epsilon=0.1, seed=4, first_index=7, batch_size=3)
    members = np.array([member(images, training=False) for member in ENSEMBLE.members])
    logs = np.concatenate([answer for answer, _ in given], axis=1)
    np.testing.assert_allclose(logs, tf.nn.log_softmax(members), atol=1e-5)
    keys = np.concatenate([batch.keys.numpy() for _, batch in given])
    expected = [np.random.SeedSequence((4, 0, 7 + i)).generate_state(2) for i in range(5)]
    np.testing.assert_array_equal(keys.view("uint32"), expected)
    for _, batch in given:
        np.testing.assert_array_equal(batch.start, batch.images)


def test_uniform_noise_fills_the_ball_evenly_and_needs_no_gradient():
    images = np.full((300, *IMAGE_SHAPE), 0.5, "float32")

    @tf.custom_gradient
    def without_gradient(x):
        def fail(upstream):
            raise NotImplementedError

        return tf.reduce_mean(x, axis=[1, 2]), fail

    noise = UniformNoise()(without_gradient, images, np.zeros(300, int), epsilon=0.2) - images
    np.testing.assert_allclose(np.histogram(noise, 10, (-0.2, 0.2))[0], noise.size / 10, rtol=0.05)
    assert noise.mean() == pytest.approx(0, abs=0.002)
    assert noise.var() == pytest.approx(0.4**2 / 12, rel=0.02)
    assert (noise**4).mean() == pytest.approx(0.2**4 / 5, rel=0.03)
    correlations = np.corrcoef(noise.reshape(300, -1))[np.triu_indices(300, 1)]
    assert np.abs(correlations).max() < 0.4


class Runaway(Attack):
    """Leaves the ball and the pixel range."""

    name = "runaway"

    def perturb(self, model, batch):
        return batch.images + 100 * batch.epsilon


class Broken(Attack):
    name = "broken"

    def perturb(self, model, batch):
        return batch.images * np.nan


def test_the_base_projects_what_a_leaf_returns():
    images, labels = examples(3)
    adversarial = Runaway()(ENSEMBLE, images, labels, epsilon=0.1)
    np.testing.assert_allclose(adversarial, np.minimum(images + np.float32(0.1), 1), atol=1e-7)


def test_a_result_that_is_not_a_number_is_an_error():
    images, labels = examples(3)
    with pytest.raises(RuntimeError, match="not within 0.1"):
        Broken()(ENSEMBLE, images, labels, epsilon=0.1)


IMAGES, LABELS = examples(3)


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (IMAGES * 255, LABELS, {}, r"pixels in \[0, 1\].*Divide by 255"),
        (IMAGES - 0.5, LABELS, {}, r"pixels in \[0, 1\]"),
        (np.full_like(IMAGES, np.nan), LABELS, {}, "finite pixels"),
        (np.full_like(IMAGES, np.inf), LABELS, {}, "finite pixels"),
        (IMAGES[0], LABELS, {}, "of shape"),
        (IMAGES, LABELS + NUM_CLASSES, {}, "labels from 0 to 3"),
        (IMAGES, LABELS - 9, {}, "labels from 0 to 3"),
        (IMAGES, LABELS[:2], {}, "3 integer labels"),
        (IMAGES, LABELS + 0.5, {}, "3 integer labels"),
        (IMAGES, LABELS, {"epsilon": 0}, "epsilon in"),
        (IMAGES, LABELS, {"epsilon": -0.1}, "epsilon in"),
        (IMAGES, LABELS, {"epsilon": 8}, "epsilon in"),
        (IMAGES, LABELS, {"epsilon": float("nan")}, "epsilon in"),
        (IMAGES, LABELS, {"epsilon": 0.01}, "step_size of at most epsilon, 0.01. Received: 0.02"),
        (IMAGES, LABELS, {"batch_size": 0}, "batch_size of at least 1"),
        (IMAGES, LABELS, {"restart": 1}, "restart from 0 to 0"),
    ],
)
def test_refuses_bad_input(images, labels, options, message):
    with pytest.raises(InputError, match=message):
        BIM(step_size=0.02)(ENSEMBLE, images, labels, **{"epsilon": 0.1, **options})


@pytest.mark.parametrize(
    ("attack", "arguments", "message"),
    [
        (BIM, {"num_steps": 0}, "num_steps"),
        (BIM, {"step_size": 0}, "step_size"),
        (BIM, {"step_size": -0.1}, "step_size"),
        (PGD, {"restarts": 0}, "restarts"),
        (MIM, {"decay_factor": -1.0}, "decay_factor"),
        (MIM, {"decay_factor": float("nan")}, "decay_factor"),
        (FGSM, {"loss": "cross-entropy"}, "Unknown loss. Did you mean cross_entropy"),
        (FGSM, {"fusion": "logit"}, "Unknown fusion. Did you mean logits"),
        (BIM, {"fusion": None}, "Unknown fusion"),
        (UniformNoise, {"restarts": 0}, "restarts"),
    ],
)
def test_refuses_bad_hyperparameters(attack, arguments, message):
    with pytest.raises(InputError, match=message):
        attack(**arguments)


def test_refuses_a_keras_model_that_returns_probabilities():
    network = plain_network(0)
    probabilities = keras.Model(network.inputs, keras.layers.Softmax()(network.outputs[0]))
    with pytest.raises(InputError, match="returns probabilities"):
        FGSM().prepare(probabilities)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_refuses_a_function_that_returns_probabilities(scale):
    with pytest.raises(InputError, match="returns probabilities"):
        FGSM()(lambda x: tf.nn.softmax(scale * logits_of(x)), IMAGES, LABELS, epsilon=0.1)


def test_refuses_an_ensemble_with_a_member_that_hides_its_softmax():
    network = plain_network(0)
    hidden = keras.layers.Lambda(lambda x: tf.nn.softmax(x))(network.outputs[0])
    members = [plain_network(1), keras.Model(network.inputs, hidden)]
    with pytest.raises(InputError, match="returns probabilities"):
        parl_tf.Ensemble(members)
    ensemble = parl_tf.Ensemble([members[0], plain_network(2)])
    ensemble.members = members
    with pytest.raises(InputError, match="returns probabilities"):
        FGSM()(ensemble, IMAGES, LABELS, epsilon=0.1)


def test_a_sure_classifier_is_attacked_along_its_true_gradient(float64):
    network = plain_network(2)  # in float64 from here on: the reference
    images, _ = examples(80)
    labels = network.predict(images, verbose=0).argmax(axis=1)
    network.set_weights(
        [*network.get_weights()[:-2], *(30 * w for w in network.get_weights()[-2:])]
    )
    with tf.GradientTape() as tape:
        pixels = tf.constant(images, tf.float64)
        tape.watch(pixels)
        logits = network(pixels)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    gradient = tape.gradient(loss, pixels).numpy()
    margins = np.sort(logits, axis=1)[:, -1] - np.sort(logits, axis=1)[:, -2]
    sure = (margins > 18) & (margins < 60)
    assert sure.sum() > 5
    keras.config.set_dtype_policy("float32")
    single = plain_network(2)
    single.set_weights(network.get_weights())
    adversarial = FGSM()(single, images, labels, epsilon=0.01)
    moved = np.abs(gradient) > 1e-2 * np.abs(gradient).max(axis=(1, 2, 3), keepdims=True)
    moved &= sure[:, None, None, None] & (images > 0.02) & (images < 0.98)
    agree = np.sign(adversarial - images)[moved] == np.sign(gradient)[moved]
    assert agree.mean() > 0.98  # some 0.8 from plain float32 logits


def test_refuses_what_is_not_a_model():
    with pytest.raises(InputError, match="a model or a function"):
        FGSM().prepare("parl.keras")


def test_unknown_attack_comes_with_near_matches():
    with pytest.raises(InputError, match="Unknown attack. Did you mean pgd"):
        ATTACKS["pdg"]
