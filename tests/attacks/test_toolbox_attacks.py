"""Attacks of the Adversarial Robustness Toolbox, against the toolbox's own calls."""

import importlib
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import IMAGE_SHAPE, NUM_CLASSES, examples, plain_network

import parl_tf
from parl_tf.attacks import ATTACKS
from parl_tf.attacks.art.apgd import APGD
from parl_tf.attacks.art.hop_skip_jump import HopSkipJump
from parl_tf.attacks.art.square import Square
from parl_tf.attacks.art.toolbox import Classifier, generate
from parl_tf.attacks.base import Batch
from parl_tf.attacks.members import member_logits
from parl_tf.errors import InputError, MissingExtraError

# After `parl_tf.attacks.art.toolbox`, which expects the warning that PyTorch is missing.
TOOLBOX = importlib.import_module("art.attacks.evasion")
ESTIMATORS = importlib.import_module("art.estimators.classification")


def curved_network(seed):
    """One whose gradients turn within a ball, and that gives random images several labels."""
    network = plain_network(seed, activation="tanh")
    network.set_weights([4 * weight for weight in network.get_weights()])
    return network


MEMBER = curved_network(1)
ENSEMBLE = parl_tf.Ensemble([curved_network(0), MEMBER])
EPSILON = 0.1


def predicted(images, model=MEMBER):
    return np.argmax(model(images, training=False), axis=1)


def images_and_labels(count=10, model=MEMBER):
    """Images of whose labels the first three are wrong."""
    images, _ = examples(count)
    labels = predicted(images, model)
    labels[:3] = (labels[:3] + 1) % NUM_CLASSES
    return images, labels


def keys_of(count, seed, restart=0):
    sources = [np.random.SeedSequence((seed, restart, index)) for index in range(count)]
    return np.array([source.generate_state(2) for source in sources])


@pytest.fixture
def classifier(monkeypatch):
    """The toolbox's own classifier, whose losses need names that Keras 3 no longer has."""
    reductions = types.SimpleNamespace(
        NONE="none", SUM_OVER_BATCH_SIZE="sum_over_batch_size", SUM="sum"
    )
    monkeypatch.setattr(tf.keras.losses, "Reduction", reductions, raising=False)
    return ESTIMATORS.TensorFlowV2Classifier(
        lambda x, training: tf.nn.log_softmax(MEMBER(x, training=training)),
        nb_classes=NUM_CLASSES,
        input_shape=IMAGE_SHAPE,
        loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )


@pytest.mark.parametrize(("num_steps", "restart"), [(3, 0), (20, 0), (20, 1)])
def test_apgd_equals_the_toolbox(classifier, num_steps, restart):
    images, labels = images_and_labels()
    attack = TOOLBOX.AutoProjectedGradientDescent(
        classifier,
        norm=np.inf,
        eps=EPSILON,
        eps_step=2 * EPSILON,
        max_iter=num_steps,
        nb_random_init=1,
        verbose=False,
    )
    np.random.seed(keys_of(10, 5, restart).ravel())
    expected = attack.generate(images, labels)
    found = APGD(num_steps=num_steps, restarts=2)(
        MEMBER, images, labels, epsilon=EPSILON, seed=5, restart=restart
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("num_queries", "first_area"), [(5, 0.3), (60, 0.8)])
def test_square_equals_the_toolbox(classifier, num_queries, first_area):
    images, labels = images_and_labels()
    attack = TOOLBOX.SquareAttack(
        classifier,
        norm=np.inf,
        eps=EPSILON,
        max_iter=num_queries,
        p_init=first_area,
        nb_restarts=1,
        verbose=False,
    )
    np.random.seed(keys_of(10, 5).ravel())
    expected = attack.generate(images.copy(), labels)
    crafter = Square(num_queries=num_queries, first_area=first_area)
    found = crafter(MEMBER, images, labels, epsilon=EPSILON, seed=5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def starts_by_hand(images, labels, seed):
    """The first draw of each image's generator that is given another label."""
    starts = images.copy()
    for index, key in enumerate(keys_of(len(images), seed)):
        generator = np.random.default_rng(key)
        while predicted(starts[index : index + 1])[0] == labels[index]:
            starts[index] = generator.uniform(0, 1, IMAGE_SHAPE)
    return starts


def test_hop_skip_jump_equals_the_toolbox(classifier):
    images, labels = images_and_labels()
    attack = TOOLBOX.HopSkipJump(
        classifier,
        batch_size=64,
        norm=np.inf,
        max_iter=3,
        max_eval=30,
        init_eval=30,
        verbose=False,
    )
    starts, expected = starts_by_hand(images, labels, 5), images.copy()
    np.random.seed(keys_of(10, 5).ravel())
    expected[3:] = attack.generate(images[3:], labels[3:], x_adv_init=starts[3:])
    assert (predicted(expected) != labels).all()
    expected = np.clip(expected, np.maximum(images - EPSILON, 0), np.minimum(images + EPSILON, 1))
    crafter = HopSkipJump(num_steps=3, num_queries=30)
    found = crafter(MEMBER, images, labels, epsilon=EPSILON, seed=5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


CRAFTERS = {
    "apgd": APGD(num_steps=4).prepare(ENSEMBLE),
    "square": Square(num_queries=10).prepare(ENSEMBLE),
    "hop-skip-jump": HopSkipJump(num_steps=1, num_queries=12).prepare(ENSEMBLE),
}


@pytest.mark.parametrize("name", CRAFTERS)
def test_an_ensemble_in_the_ball_and_misclassified_images_untouched(name):
    images, labels = images_and_labels(model=ENSEMBLE)
    kept = images.copy()
    found = CRAFTERS[name](images, labels, epsilon=EPSILON, batch_size=7)
    np.testing.assert_array_equal(images, kept)
    np.testing.assert_array_equal(found[:3], images[:3])
    moved = np.abs(found[3:].astype("float64") - images[3:]).max(axis=(1, 2, 3))
    assert (moved > 0).all()
    assert moved.max() <= EPSILON + 2**-22
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("name", CRAFTERS)
def test_numpy_s_global_generator_is_left_as_it_was(name):
    images, labels = images_and_labels(model=ENSEMBLE)
    np.random.seed(1)
    expected = np.random.uniform(size=5)
    np.random.seed(1)
    first = CRAFTERS[name](images, labels, epsilon=EPSILON, seed=3)
    np.testing.assert_array_equal(np.random.uniform(size=5), expected)
    again = CRAFTERS[name](images, labels, epsilon=EPSILON, seed=3)
    np.testing.assert_array_equal(again, first)


def test_the_global_generator_is_put_back_after_an_error():
    class Failing:
        def generate(self, images, labels):
            np.random.uniform()
            raise ZeroDivisionError

    images, labels = (tf.constant(part) for part in examples(2))
    batch = Batch(images, labels, images, tf.constant(0.1), tf.zeros((2, 2), tf.int32))
    np.random.seed(1)
    expected = np.random.uniform(size=5)
    np.random.seed(1)
    with pytest.raises(ZeroDivisionError):
        generate(Failing(), batch)
    np.testing.assert_array_equal(np.random.uniform(size=5), expected)


def test_an_image_without_a_start_stays_where_it_is():
    images, _ = examples(4)

    def brightest(x):
        return tf.reduce_mean(x, axis=[1, 2]) + tf.constant([9.0, 0.0, 0.0])

    attack = HopSkipJump(num_steps=1, num_queries=10, num_starts=3)
    found = attack(brightest, images, np.zeros(4, int), epsilon=EPSILON)
    np.testing.assert_array_equal(found, images)


def accuracy(attack, epsilon=EPSILON, count=30):
    images, _ = examples(count)
    labels = predicted(images, ENSEMBLE)
    adversarial = attack(ENSEMBLE, images, labels, epsilon=epsilon)
    return (predicted(adversarial, ENSEMBLE) == labels).mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weak", "strong", "epsilon"),
    [
        (APGD(num_steps=1), APGD(num_steps=20), 0.05),
        (Square(num_queries=1), Square(num_queries=100), 0.02),
        (
            HopSkipJump(num_steps=1, num_queries=10),
            HopSkipJump(num_steps=5, num_queries=40),
            0.1,
        ),
    ],
    ids=["apgd", "square", "hop-skip-jump"],
)
def test_more_budget_fools_more(weak, strong, epsilon):
    assert accuracy(strong, epsilon) < accuracy(weak, epsilon)
    assert accuracy(weak, 5 * epsilon) < accuracy(weak, epsilon / 5)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("fusion", ["probabilities", "logits", "losses"])
def test_classifier_has_the_attack_s_loss_and_gradient(loss, fusion):
    images, labels = examples(5)
    model = member_logits(ENSEMBLE.members)
    pixels = tf.constant(images)
    objective = APGD(loss=loss, fusion=fusion).objective
    batch = Batch(pixels, tf.constant(labels), pixels, tf.constant(0.1), None)
    classifier = Classifier(model, batch, objective)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        expected = objective(labels, model(pixels))
    hot = np.eye(NUM_CLASSES)[labels]
    np.testing.assert_allclose(classifier.compute_loss(images, hot), expected, atol=1e-5)
    np.testing.assert_allclose(
        classifier.loss_gradient(images, hot), tape.gradient(expected, pixels), atol=1e-5
    )
    np.testing.assert_allclose(
        tf.nn.softmax(classifier.predict(images)),
        np.mean([tf.nn.softmax(member(images)) for member in ENSEMBLE.members], axis=0),
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ["apgd", "square", "hop-skip-jump"])
def test_without_the_toolbox_the_message_names_the_extra(name, monkeypatch):
    for module in [m for m in sys.modules if m == "art" or m.startswith("art.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "art", None)
    for module in ("toolbox", "apgd", "square", "hop_skip_jump"):
        monkeypatch.delitem(sys.modules, f"parl_tf.attacks.art.{module}")
    with pytest.raises(MissingExtraError, match=r"extra art: pip install 'parl_tf\[art\]'"):
        ATTACKS[name]
    assert ATTACKS["pgd"].name == "pgd"


@pytest.mark.parametrize(
    ("attack", "arguments", "message"),
    [
        (APGD, {"num_steps": 0}, "num_steps of at least 1. Received: 0"),
        (APGD, {"restarts": 0}, "restarts"),
        (APGD, {"loss": "dlr"}, "Unknown loss"),
        (APGD, {"fusion": "vote"}, "Unknown fusion"),
        (Square, {"num_queries": 0}, "num_queries of at least 1. Received: 0"),
        (Square, {"first_area": 0.0}, "first_area"),
        (Square, {"first_area": 1.0}, "first_area"),
        (Square, {"first_area": float("nan")}, "first_area"),
        (Square, {"restarts": 0}, "restarts"),
        (HopSkipJump, {"num_steps": 0}, "num_steps"),
        (HopSkipJump, {"num_queries": 9}, "num_queries of at least 10"),
        (HopSkipJump, {"num_starts": 0}, "num_starts"),
        (HopSkipJump, {"restarts": 0}, "restarts"),
    ],
)
def test_refuses_bad_hyperparameters(attack, arguments, message):
    with pytest.raises(InputError, match=message):
        attack(**arguments)


@pytest.mark.parametrize(("first_area", "fits"), [(0.001, True), (0.8, True), (0.99, False)])
def test_squares_must_fit_into_the_image(first_area, fits):
    images, labels = images_and_labels(5)
    attack = Square(num_queries=5, first_area=first_area)
    if fits:
        assert attack(MEMBER, images, labels, epsilon=0.001).shape == images.shape
    else:
        with pytest.raises(InputError, match="squares are smaller than images of 8 x 8 .*: 0.99"):
            attack(MEMBER, images, labels, epsilon=0.001)
