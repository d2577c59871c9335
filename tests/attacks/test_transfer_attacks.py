"""Attacks made for transfer: momentum, input diversity, skip gradients."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from harness.marks import slow_except
from harness.networks import IMAGE_SHAPE, NUM_CLASSES, examples, plain_network, residual_network

import parl_tf
from parl_tf.attacks.iterative import PGD
from parl_tf.attacks.momentum import MDI2FGSM, MIFGSM, shrinking_matrices
from parl_tf.attacks.sgm import SGM, scale_residual_gradients
from parl_tf.errors import InputError
from parl_tf.models.resnet import resnet8_shortcut_batch_norm, resnet20

ENSEMBLE = parl_tf.Ensemble([residual_network(0), residual_network(1)])
EPSILON = 0.06
STEP = np.float32(EPSILON) / np.float32(5)
SIZE = IMAGE_SHAPE[0]


def logits_of(images):
    return ENSEMBLE(images, training=False)


def mean_loss(member, images, labels):
    logits = member(images, training=False)
    return np.mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def keys_of(count, seed=0, restart=0):
    sources = [np.random.SeedSequence((seed, restart, index)) for index in range(count)]
    return np.array([source.generate_state(2) for source in sources]).view("int32")


def seen_by(attack, images, keys, step=0):
    return tf.function(attack.seen)(images, keys, step).numpy()


def test_mi_fgsm_equals_eager_cleverhans():
    images, labels = examples(9)
    expected = momentum_iterative_method(
        logits_of,
        tf.constant(images),
        eps=EPSILON,
        eps_iter=STEP,
        nb_iter=12,
        y=labels,
        decay_factor=1.0,
        sanity_checks=False,
        clip_min=0.0,
        clip_max=1.0,
    )
    found = MIFGSM(num_steps=12)(ENSEMBLE, images, labels, epsilon=EPSILON, batch_size=4)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [MIFGSM, MDI2FGSM, SGM])
def test_more_budget_raises_the_loss_more(attack):
    images, labels = examples(12)
    member = ENSEMBLE.members[0]
    short, long = (attack(num_steps=n, step_size=0.01).prepare(member) for n in (2, 12))
    losses = [mean_loss(member, images, labels)]
    for craft, epsilon in ((short, 0.02), (long, 0.02), (long, 0.1)):
        adversarial = craft(images, labels, epsilon=epsilon)
        losses.append(mean_loss(member, adversarial, labels))
    assert losses == sorted(losses)
    assert losses[0] < losses[1]
    assert losses[2] < losses[3]


def shrunk_by_hand(images, size, top, left):
    """Resized by TensorFlow, in a frame of zeros."""
    height, width = images.shape[1:3]
    shrunk = tf.image.resize(images, (size, size), method="bilinear", antialias=False)
    free = [(0, 0), (top, height - size - top), (left, width - size - left), (0, 0)]
    return np.pad(shrunk.numpy(), free)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 13])
def test_shrinking_matrices_against_resizing_and_padding(size):
    unit = np.eye(size, dtype="float32")[None, :, :, None]
    for shrunk in range(1, size + 1):
        free = size - shrunk
        line = tf.image.resize(unit, (shrunk, size), method="bilinear", antialias=False)
        for offset in range(free + 1):
            place = (offset + np.array([0.0, 0.5, 0.99], "float32")) / (free + 1)
            found = shrinking_matrices(size, tf.fill([3], float(shrunk)), tf.constant(place))
            expected = np.pad(line[0, :, :, 0], [(offset, free - offset), (0, 0)])
            np.testing.assert_allclose(found, [expected] * 3, atol=1e-5)
    last = shrinking_matrices(size, tf.constant([1.0]), tf.constant([1.0]))
    assert np.flatnonzero(np.sum(last, axis=2)).tolist() == [size - 1]


def geometries(images, found, smallest):
    """Which size, top and left made each image of `found` from that of `images`."""
    names, candidates = [], []
    for size in range(smallest, SIZE + 1):
        for top, left in itertools.product(range(SIZE - size + 1), repeat=2):
            names.append((size, top, left))
            candidates.append(shrunk_by_hand(images, size, top, left))
    errors = np.abs(np.array(candidates) - found).max(axis=(2, 3, 4))
    assert (np.sort(errors, axis=0)[0] < 1e-5).all()
    assert (np.sort(errors, axis=0)[1] > 1e-3).all()
    return np.array(names)[errors.argmin(axis=0)]


@pytest.mark.parametrize("smallest", [0.5, 0.9])
def test_sizes_and_places_are_uniform(smallest):
    count, least = 1000, round(smallest * SIZE)
    images, _ = examples(count)
    attack = MDI2FGSM(smallest=smallest, probability=1.0)
    sizes, tops, lefts = geometries(images, seen_by(attack, images, keys_of(count)), least).T
    possible = SIZE - least + 1
    np.testing.assert_allclose(
        np.bincount(sizes)[least:], count / possible, atol=4 * np.sqrt(count / possible)
    )
    for size in range(least, SIZE + 1):
        here, places = sizes == size, SIZE - size + 1
        expected = here.sum() / places**2
        counts = np.bincount(tops[here] * places + lefts[here], minlength=places**2)
        np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(expected))


def test_an_image_is_never_shrunk_to_nothing():
    images, _ = examples(200)
    seen = seen_by(MDI2FGSM(smallest=0.01, probability=1.0), images, keys_of(200))
    assert np.max(seen, axis=(1, 2, 3)).min() > 0


def test_probability_is_how_often_an_image_is_shrunk():
    images, _ = examples(1000)
    seen = seen_by(MDI2FGSM(smallest=0.1, probability=0.3), images, keys_of(1000))
    same = (seen == images).all(axis=(1, 2, 3))
    always = seen_by(MDI2FGSM(smallest=0.1, probability=1.0), images, keys_of(1000))
    unmoved = np.isclose(always, images, atol=1e-6).all(axis=(1, 2, 3))
    assert (~same).mean() == pytest.approx(0.3 * (1 - unmoved.mean()), abs=0.05)
    np.testing.assert_allclose(seen[~same], always[~same], atol=1e-6)


def test_what_is_seen_follows_from_keys_and_step_alone():
    images, _ = examples(30)
    keys, attack = keys_of(30), MDI2FGSM(smallest=0.3, probability=1.0)
    first = attack.seen(images, keys, 4).numpy()
    tf.random.set_seed(99)
    np.testing.assert_array_equal(attack.seen(images, keys, tf.constant(4)), first)
    np.testing.assert_allclose(attack.seen(images[7:9], keys[7:9], 4), first[7:9], atol=1e-6)
    backwards = attack.seen(images[::-1], keys[::-1], 4).numpy()[::-1]
    np.testing.assert_allclose(backwards, first, atol=1e-6)
    for other in (attack.seen(images, keys, 5), attack.seen(images, keys_of(30, seed=1), 4)):
        assert (np.abs(other - first).max(axis=(1, 2, 3)) > 1e-3).mean() > 0.8


def test_the_gradient_is_that_of_the_transposed_transformation():
    images, _ = examples(5)
    keys, attack = keys_of(5), MDI2FGSM(smallest=0.3, probability=0.7)
    weights = np.random.default_rng(3).normal(size=images.shape).astype("float32")
    with tf.GradientTape() as tape:
        pixels = tf.constant(images)
        tape.watch(pixels)
        total = tf.reduce_sum(weights * attack.seen(pixels, keys, 2))
    gradient = tape.gradient(total, pixels).numpy()
    units = np.eye(SIZE**2 * 3, dtype="float32").reshape(-1, *IMAGE_SHAPE)
    for index in range(5):
        columns = seen_by(attack, units, keys[[index] * len(units)], 2)
        expected = np.tensordot(columns, weights[index], axes=3)
        np.testing.assert_allclose(gradient[index].ravel(), expected, atol=1e-5)


def test_without_diversity_it_is_mi_fgsm():
    images, labels = examples(9)
    seen = MDI2FGSM(probability=0.0).seen(images, keys_of(9), 0)
    np.testing.assert_array_equal(seen, images)
    found, expected = (
        attack(ENSEMBLE, images, labels, epsilon=EPSILON)
        for attack in (MDI2FGSM(probability=0.0, num_steps=8), MIFGSM(num_steps=8))
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("decay_factor", slow_except([0.5, 1.0], 0.5))
def test_mdi2_fgsm_is_the_loop_by_hand(decay_factor):
    images, labels = examples(9)
    attack = MDI2FGSM(smallest=0.6, probability=0.8, num_steps=6, decay_factor=decay_factor)
    keys, adversarial, momentum = keys_of(9, seed=7, restart=1), images, np.zeros_like(images)
    for step in range(6):
        pixels = tf.constant(adversarial)
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            seen = tf.concat(
                [attack.seen(pixels[i : i + 1], keys[i : i + 1], step) for i in range(9)], axis=0
            )
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits_of(seen))
        gradient = tape.gradient(loss, pixels).numpy()
        size = np.abs(gradient).sum(axis=(1, 2, 3), keepdims=True)
        momentum = decay_factor * momentum + gradient / size
        moved = adversarial + STEP * np.sign(momentum)
        moved = images + np.clip(moved - images, -np.float32(EPSILON), np.float32(EPSILON))
        adversarial = np.clip(moved, 0, 1)
    found = MDI2FGSM(
        smallest=0.6, probability=0.8, num_steps=6, decay_factor=decay_factor, restarts=2
    )(ENSEMBLE, images, labels, epsilon=EPSILON, seed=7, restart=1, batch_size=4)
    np.testing.assert_allclose(found, adversarial, atol=1e-6)


def add_layer(x, branch):
    return keras.layers.Add()([x, branch])


def add_layer_reversed(x, branch):
    return keras.layers.Add()([branch, x])


def add_operator(x, branch):
    return x + branch


ADDITIONS = [add_layer, add_layer_reversed, keras.ops.add, add_operator]


def linear_network(add, kernels):
    """Blocks x + x K, and the mean over pixels as logits of three classes."""
    pixels = x = keras.Input(IMAGE_SHAPE)
    for _ in kernels:
        x = add(x, keras.layers.Conv2D(3, 1, use_bias=False)(x))
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x))
    model.set_weights([kernel[None, None] for kernel in kernels])
    return model


def pixel_gradient(model, images, weights):
    with tf.GradientTape() as tape:
        pixels = tf.constant(images)
        tape.watch(pixels)
        total = tf.reduce_sum(weights * model(pixels, training=False))
    return tape.gradient(total, pixels).numpy()


@pytest.mark.parametrize("factor", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("add", ADDITIONS)
def test_gradient_of_two_linear_blocks_by_hand(add, factor):
    kernels = np.random.default_rng(0).normal(size=(2, 3, 3)).astype("float32")
    member = linear_network(add, kernels)
    scaled = scale_residual_gradients(member, factor)
    images, _ = examples(2)
    unit = np.eye(3, dtype="float32")
    for network, used in ((scaled, factor), (member, 1.0)):
        jacobian = (unit + used * kernels[0]) @ (unit + used * kernels[1]) / SIZE**2
        for weights in unit:
            expected = np.broadcast_to(jacobian @ weights, images.shape)
            np.testing.assert_allclose(
                pixel_gradient(network, images, weights), expected, atol=1e-7
            )
    np.testing.assert_array_equal(scaled(images), member(images))


def forward_by_hand(model, pixels, factor):
    """`residual_network`, its branch held back by hand; the shortcut has a convolution too."""
    norms = iter([n for n in model.layers if isinstance(n, keras.layers.BatchNormalization)])
    x = tf.nn.relu(next(norms)(model.get_layer("stem")(pixels), training=False))
    shortcut = model.get_layer("shortcut")(x)
    x = tf.nn.relu(next(norms)(model.get_layer("first")(x), training=False))
    x = next(norms)(model.get_layer("second")(x), training=False)
    x = factor * x + (1 - factor) * tf.stop_gradient(x)
    x = tf.reduce_mean(tf.nn.relu(x + shortcut), axis=[1, 2])
    return model.layers[-1](x)


@pytest.mark.parametrize("factor", [0.2, 0.7])
def test_a_convolution_on_a_shortcut_is_not_the_branch(factor):
    member = residual_network(3)
    images, _ = examples(4)
    weights = np.random.default_rng(1).normal(size=NUM_CLASSES).astype("float32")
    found = pixel_gradient(scale_residual_gradients(member, factor), images, weights)
    expected = pixel_gradient(
        lambda x, training: forward_by_hand(member, x, factor), images, weights
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - pixel_gradient(member, images, weights)).max() > 1e-4


def scalings(model):
    return [layer for layer in model.layers if type(layer).__name__ == "_ScaledGradient"]


@pytest.mark.parametrize(
    ("network", "additions"), [(resnet20, 9), (resnet8_shortcut_batch_norm, 3)]
)
def test_additions_of_the_networks_of_this_package(network, additions):
    member = network(10, input_shape=(8, 8, 3), normalization="cifar10", seed=0)
    scaled = scale_residual_gradients(member, 0.5)
    assert len(scalings(scaled)) == additions
    assert not scalings(member)
    images, _ = examples(3)
    np.testing.assert_array_equal(scaled(images), member(images))


def test_the_member_itself_is_unchanged(tmp_path):
    member = residual_network(0)
    images, labels = examples(4)
    weights = np.random.default_rng(1).normal(size=NUM_CLASSES).astype("float32")
    before = pixel_gradient(member, images, weights)
    config, values = member.get_config(), member.get_weights()
    SGM(num_steps=2)(member, images, labels, epsilon=EPSILON)
    assert member.get_config() == config
    for found, expected in zip(member.get_weights(), values, strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(pixel_gradient(member, images, weights), before)
    member.save(tmp_path / "member.keras")
    saved = keras.models.load_model(tmp_path / "member.keras")
    assert not scalings(saved)
    np.testing.assert_allclose(pixel_gradient(saved, images, weights), before, atol=1e-7)


@pytest.mark.slow
def test_with_factor_1_it_is_pgd_from_the_same_starts():
    images, labels = examples(9)
    found, expected, other = (
        attack(ENSEMBLE, images, labels, epsilon=EPSILON, seed=4, restart=1, batch_size=4)
        for attack in (
            SGM(num_steps=6, restarts=2, residual_factor=1.0),
            PGD(num_steps=6, restarts=2),
            SGM(num_steps=6, restarts=2),
        )
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(other - expected).max() > 1e-3


def test_sgm_is_the_loop_by_hand():
    images, labels = examples(6)
    draws = [np.random.default_rng((2, 0, i)).uniform(-1, 1, IMAGE_SHAPE) for i in range(6)]
    adversarial = np.clip(images + np.float32(EPSILON) * np.float32(draws), 0, 1)
    for _ in range(5):
        pixels = tf.constant(adversarial)
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            members = [forward_by_hand(member, pixels, 0.4) for member in ENSEMBLE.members]
            fused = tf.math.log(tf.reduce_mean(tf.nn.softmax(tf.stack(members)), axis=0))
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, fused)
        moved = adversarial + STEP * np.sign(tape.gradient(loss, pixels))
        moved = images + np.clip(moved - images, -np.float32(EPSILON), np.float32(EPSILON))
        adversarial = np.clip(moved, 0, 1)
    attack = SGM(num_steps=5, residual_factor=0.4)
    found = attack(ENSEMBLE, images, labels, epsilon=EPSILON, seed=2, batch_size=4)
    np.testing.assert_allclose(found, adversarial, atol=1e-6)


def functional_plain_network():
    network = plain_network(0)
    return keras.Model(network.inputs, network.outputs)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (plain_network(0), "functional Keras model with shortcuts"),
        (logits_of, "functional Keras model with shortcuts"),
        (functional_plain_network(), "network with residual blocks"),
        (parl_tf.Ensemble([residual_network(0), plain_network(1)]), "functional Keras model"),
    ],
)
def test_sgm_refuses_what_has_no_shortcuts(member, message):
    with pytest.raises(InputError, match=message):
        SGM().prepare(member)


@pytest.mark.parametrize(
    ("attack", "arguments", "message"),
    [
        (MIFGSM, {"decay_factor": -0.1}, "decay_factor"),
        (MIFGSM, {"decay_factor": float("inf")}, "decay_factor"),
        (MIFGSM, {"num_steps": 0}, "num_steps"),
        (MIFGSM, {"loss": "hinge"}, "Unknown loss"),
        (MIFGSM, {"fusion": "vote"}, "Unknown fusion"),
        (MDI2FGSM, {"smallest": 0.0}, "smallest"),
        (MDI2FGSM, {"smallest": 1.1}, "smallest"),
        (MDI2FGSM, {"smallest": float("nan")}, "smallest"),
        (MDI2FGSM, {"probability": -0.1}, "probability"),
        (MDI2FGSM, {"probability": 1.1}, "probability"),
        (MDI2FGSM, {"probability": float("nan")}, "probability"),
        (MDI2FGSM, {"restarts": 0}, "restarts"),
        (MDI2FGSM, {"decay_factor": -1}, "decay_factor"),
        (SGM, {"residual_factor": 0.0}, "residual_factor"),
        (SGM, {"residual_factor": 1.5}, "residual_factor"),
        (SGM, {"residual_factor": float("nan")}, "residual_factor"),
        (SGM, {"restarts": 0}, "restarts"),
        (SGM, {"step_size": 0}, "step_size"),
    ],
)
def test_refuses_bad_hyperparameters(attack, arguments, message):
    with pytest.raises(InputError, match=message):
        attack(**arguments)
