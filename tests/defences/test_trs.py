"""TRS against gradients by hand, a plain loop and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import IMAGE_SHAPE, NUM_CLASSES, examples, logits_loss, residual_network

import parl_tf
from parl_tf.defences.crafting import random_start
from parl_tf.defences.objective import objective
from parl_tf.errors import InputError


def smooth_network(seed, *between):
    """Two dense layers, with a smooth activation and perhaps other layers between."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="tanh"),
            *between,
            keras.layers.Dense(NUM_CLASSES),
        ]
    )


def normalized_network(seed):
    return smooth_network(seed, keras.layers.BatchNormalization())


def loss_gradients_by_hand(network, images, labels):
    """The gradient of each example's cross-entropy for `smooth_network`, (batch, features)."""
    first, offset, second, bias = network.get_weights()
    hidden = np.tanh(images.reshape(len(images), -1) @ first + offset)
    powers = np.exp(hidden @ second + bias)
    errors = powers / powers.sum(axis=1, keepdims=True) - np.eye(NUM_CLASSES)[labels]
    return ((errors @ second.T) * (1 - hidden**2)) @ first.T


def smoothness_by_hand(members, images, labels):
    gradients = [loss_gradients_by_hand(member, images, labels) for member in members]
    return np.mean([np.sum(own**2, axis=1) for own in gradients])


AUTHORS = {"smoothness_scale": "batch", "move_half": False}


def ensemble_of(network=smooth_network, num_members=3, compiled=None, **arguments):
    """TRS by per-example gradients and with moved images, unless told otherwise."""
    arguments = {"smoothness_scale": "example", "move_half": True, **arguments}
    members = [network(seed) for seed in range(num_members)]
    ensemble = parl_tf.TRS(members, **arguments)
    options = {"optimizer": keras.optimizers.SGD(0.01), "jit_compile": False, **(compiled or {})}
    ensemble.compile(loss=logits_loss(), **options)
    return ensemble


def batch(count=5):
    images, labels = examples(count)
    return images.astype(keras.config.floatx()), labels


def evaluated(ensemble, images, labels):
    return ensemble.evaluate(images, labels, batch_size=len(images), verbose=0, return_dict=True)


def test_smoothness_is_the_mean_squared_length_of_gradients(float64):
    ensemble = ensemble_of()
    images, labels = batch()
    expected = smoothness_by_hand(ensemble.members, images, labels)
    found = evaluated(ensemble, images, labels)["smoothness"]
    assert found == pytest.approx(expected, rel=1e-9)


def test_by_default_scale_and_images_are_those_of_the_authors_script():
    ensemble = parl_tf.TRS([smooth_network(0), smooth_network(1)])
    config = ensemble.get_config()
    assert {key: config[key] for key in AUTHORS} == AUTHORS
    assert [metric.name for metric in ensemble.term_trackers] == ["cosine", "smoothness"]


@pytest.mark.parametrize("count", [6, 1])
@pytest.mark.parametrize("training", [False, True])
def test_by_default_smoothness_is_of_the_mean_loss_of_the_batch(float64, count, training):
    ensemble = ensemble_of(**AUTHORS)
    images, labels = batch(count)
    expected = 0.0
    for member in ensemble.members:  # the authors' lines
        with tf.GradientTape() as tape:
            points = tf.constant(images)
            tape.watch(points)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, member(points))
            )
        gradient = tf.reshape(tape.gradient(loss, points), (count, -1))
        expected += 2 * float(tf.reduce_mean(tf.reduce_sum(gradient**2, axis=1))) / 3
    per_example = smoothness_by_hand(ensemble.members, images, labels)
    assert per_example / expected == pytest.approx(count**2 / 2, rel=1e-12)
    if training:
        found = ensemble.train_on_batch(images, labels, return_dict=True)["smoothness"]
    else:
        found = evaluated(ensemble, images, labels)["smoothness"]
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_weighted_smoothness_is_what_the_loss_holds(float64):
    ensemble = ensemble_of(**AUTHORS, smoothness_weight=7.0, cosine_weight=3.0)
    logs = ensemble.train_on_batch(*batch(6), return_dict=True)
    expected = logs["cross_entropy"] + 3 * logs["cosine"] + 7 * logs["smoothness"]
    assert logs["loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "compiled",
    [
        pytest.param({}, id="graph", marks=pytest.mark.slow),
        pytest.param({"jit_compile": True}, id="xla", marks=pytest.mark.slow),
        pytest.param({"run_eagerly": True}, id="eager"),
        pytest.param({"steps_per_execution": 2}, id="two steps", marks=pytest.mark.slow),
    ],
)
def test_validation_has_the_scale_of_training_whatever_its_batches(float64, compiled, tmp_path):
    optimizer = keras.optimizers.SGD(0.0)
    ensemble = ensemble_of(**AUTHORS, compiled={"optimizer": optimizer, **compiled})
    images, labels = batch(10)
    expected = smoothness_by_hand(ensemble.members, images, labels)
    assert evaluated(ensemble, images, labels)["smoothness"] == pytest.approx(
        2 / 10**2 * expected, rel=1e-9
    )
    history = ensemble.fit(  # batches of 4, 4 and 2
        *(images, labels, 4),
        epochs=2,
        verbose=0,
        validation_data=(images, labels),
        validation_batch_size=10,
    ).history
    np.testing.assert_allclose(history["val_smoothness"], 2 / 4**2 * expected, rtol=1e-9)
    ensemble.save(tmp_path / "trained.keras")
    for each in (ensemble, keras.models.load_model(tmp_path / "trained.keras")):
        for size in (3, 10):
            found = each.evaluate(images, labels, size, verbose=0, return_dict=True)
            assert found["smoothness"] == pytest.approx(2 / 4**2 * expected, rel=1e-9)
    ensemble.fit(images, labels, 2, verbose=0)
    found = evaluated(ensemble, images, labels)["smoothness"]
    assert found == pytest.approx(2 / 2**2 * expected, rel=1e-9)


def test_the_size_of_batches_is_an_argument_that_training_sets():
    ensemble = ensemble_of(**AUTHORS)
    assert ensemble.get_config()["batch_size"] is None
    ensemble.train_on_batch(*batch(4))
    assert ensemble.get_config()["batch_size"] == 4
    again = parl_tf.TRS(**{**ensemble.get_config(), "members": ensemble.members})
    assert again.get_config()["batch_size"] == ensemble.get_config()["batch_size"]


def test_in_half_precision_a_large_batch_has_the_smoothness_of_float32():
    images, labels = examples(160)
    found = []
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            ensemble = ensemble_of(
                **AUTHORS, accuracy_weight=0.0, cosine_weight=0.0, smoothness_weight=1.0
            )
        finally:
            keras.config.set_dtype_policy("float32")
        before = ensemble.members[0].get_weights()[2]
        found.append(ensemble.train_on_batch(images, labels, return_dict=True)["smoothness"])
        found.append(ensemble.members[0].get_weights()[2] - before)
    single, step, half, half_step = found
    assert 0 < single < 2e-4  # 2 / 160^2 is 7.8e-5
    assert half == pytest.approx(single, rel=1e-2)
    assert np.abs(step).max() > 0
    np.testing.assert_allclose(half_step, step, atol=0.05 * np.abs(step).max())


def test_a_file_from_before_there_was_a_scale_keeps_what_was_done_then():
    config = ensemble_of(**AUTHORS).get_config()
    older = {key: value for key, value in config.items() if key not in AUTHORS}
    again = parl_tf.TRS.from_config(older)
    assert (again.smoothness_scale, again.move_half) == ("example", True)


def test_cosine_is_the_mean_absolute_cosine_of_pairs(float64):
    ensemble = ensemble_of()
    images, labels = batch()
    gradients = [loss_gradients_by_hand(member, images, labels) for member in ensemble.members]
    units = [own / np.linalg.norm(own, axis=1, keepdims=True) for own in gradients]
    cosines = [np.sum(units[i] * units[j], axis=1) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert np.min(cosines) < 0 < np.max(cosines)
    found = evaluated(ensemble, images, labels)["cosine"]
    assert found == pytest.approx(np.mean(np.abs(cosines)), rel=1e-9)


def test_smoothness_does_not_depend_on_the_size_of_the_batch(float64):
    ensemble = ensemble_of(compiled={"run_eagerly": True})
    images, labels = batch()
    once = evaluated(ensemble, images, labels)
    twice = evaluated(ensemble, np.tile(images, (2, 1, 1, 1)), np.tile(labels, 2))
    assert twice["smoothness"] == pytest.approx(once["smoothness"], rel=1e-9)


def moved_by_hand(members, images, labels, radius, seed):
    """Six steps of a third of the radius, up the sum of the members' squared gradients."""
    points = random_start(tf.constant(images), radius, seed)
    for _ in range(6):
        total = np.zeros_like(images)
        for member in members:
            with tf.GradientTape() as outer:
                outer.watch(points)
                with tf.GradientTape() as inner:
                    inner.watch(points)
                    logits = member(points)
                    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                length = tf.reduce_sum(inner.gradient(losses, points) ** 2)
            total += outer.gradient(length, points)
        moved = points + radius / 3 * np.sign(total)
        points = tf.constant(np.clip(np.clip(moved, images - radius, images + radius), 0, 1))
    return points.numpy()


@pytest.mark.parametrize("count", [6, 5, 1])
def test_in_training_every_other_image_is_moved(float64, count):
    ensemble = ensemble_of()
    images, labels = batch(count)
    ensemble.begin_epoch(2, 4)
    radius = np.float64(np.float32(0.02))
    seed = ensemble.step_seed("smoothness")
    points = images.copy()
    points[::2] = moved_by_hand(ensemble.members, images[::2], labels[::2], radius, seed)
    expected, clean = (smoothness_by_hand(ensemble.members, x, labels) for x in (points, images))
    assert expected > 1.01 * clean
    logs = ensemble.train_on_batch(images, labels, return_dict=True)
    assert logs["smoothness"] == pytest.approx(expected, rel=1e-9)


def test_each_step_draws_its_own_start(float64):
    ensemble = ensemble_of(compiled={"optimizer": keras.optimizers.SGD(0.0), "run_eagerly": True})
    images, labels = batch(4)
    first, second = (
        ensemble.train_on_batch(images, labels, return_dict=True)["smoothness"] for _ in range(2)
    )
    assert first != second


def test_without_a_radius_nothing_is_moved(float64):
    ensemble = ensemble_of(first_radius=0.0, last_radius=0.0)
    images, labels = batch()
    expected = smoothness_by_hand(ensemble.members, images, labels)
    logs = ensemble.train_on_batch(images, labels, return_dict=True)
    assert logs["smoothness"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("arguments", [{}, {**AUTHORS, "smoothness_weight": 100.0}])
def test_derivative_against_finite_differences(float64, training, arguments):
    ensemble = ensemble_of(**arguments)
    images, labels = map(tf.constant, batch(4))

    @tf.function
    def loss():
        return objective(ensemble, images, labels, None, None, training).loss

    variables = ensemble.trainable_variables
    with tf.GradientTape() as tape:
        value = loss()
    gradient = tape.gradient(value, [v.value for v in variables])
    before, generator = [v.numpy() for v in variables], np.random.default_rng(0)
    for _ in range(4):
        direction = [generator.normal(size=v.shape) for v in variables]
        values = []
        for sign in (1, -1):
            for variable, b, d in zip(variables, before, direction, strict=True):
                variable.assign(b + sign * 1e-6 * d)
            values.append(float(loss()))
        derivative = sum(np.sum(g * d) for g, d in zip(gradient, direction, strict=True))
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(derivative, rel=1e-5)


def test_smoothness_leaves_no_trace_in_moving_statistics():
    images, labels = batch(6)
    ours = ensemble_of(normalized_network, 2, num_steps=2)
    plain = parl_tf.Ensemble([normalized_network(seed) for seed in range(2)])
    plain.compile(loss=logits_loss(), jit_compile=False)
    for ensemble in (ours, plain):
        ensemble.train_on_batch(images, labels)
    for mine, other in zip(ours.members, plain.members, strict=True):
        pairs = zip(mine.non_trainable_variables, other.non_trainable_variables, strict=True)
        for found, expected in pairs:
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_radius_grows_with_the_epochs():
    ensemble = ensemble_of(first_radius=0.02, last_radius=0.1, num_steps=1)
    history = ensemble.fit(*batch(), epochs=4, verbose=0).history
    np.testing.assert_allclose(history["radius"], [0.02, 0.04, 0.06, 0.08], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["plain", "saturated"])
def test_small_batches_of_a_single_class_train_to_finite_weights(count, scale):
    ensemble = ensemble_of(residual_network, 2, num_steps=2, compiled={"run_eagerly": True})
    for member in ensemble.members:
        kernel, bias = member.layers[-1].weights
        kernel.assign(scale * kernel)
        bias.assign([scale - 1, 0, 0, 1 - scale])
    images, _ = batch(count)
    logs = ensemble.train_on_batch(images, np.full(count, 2), return_dict=True)
    assert all(np.isfinite(value) for value in logs.values()), logs
    assert all(np.isfinite(weight).all() for weight in ensemble.get_weights())


def test_zero_gradients_have_no_length_and_no_cosine():
    ensemble = ensemble_of(residual_network, 2, num_steps=2, compiled={"run_eagerly": True})
    for member in ensemble.members:  # probabilities of exactly 0 and 1
        member.layers[-1].bias.assign([0, 0, 1e4, 0])
    images, _ = batch(3)
    logs = ensemble.train_on_batch(images, np.full(3, 2), return_dict=True)
    assert logs["smoothness"] == logs["cosine"] == logs["loss"] == 0
    assert all(np.isfinite(weight).all() for weight in ensemble.get_weights())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first_radius": -0.1}, "radius in .0, 1.. Received: -0.1"),
        ({"last_radius": 8}, "radius in .0, 1.. Received: 8"),
        ({"num_steps": 0}, "num_steps of at least 1. Received: 0"),
        ({"smoothness_scale": "batches"}, "Unknown smoothness_scale. Did you mean batch"),
        ({"smoothness_weight": float("nan")}, "finite weights"),
    ],
)
def test_refuses_bad_values(arguments, message):
    with pytest.raises(InputError, match=message):
        ensemble_of(**arguments)
