"""PARL's penalty against references that are not its own code."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.derivatives import assert_step_follows_the_loss
from harness.marks import slow_except
from harness.networks import (
    IMAGE_SHAPE,
    NUM_CLASSES,
    examples,
    logits_loss,
    plain_network,
    residual_network,
    sign_flipped_copy,
)

import parl_tf
from parl_tf.errors import InputError


def penalty_of(members, images, **arguments):
    """The penalty that `evaluate` reports, in inference mode."""
    ensemble = parl_tf.PARL(members, **arguments)
    ensemble.compile(loss=logits_loss(), run_eagerly=True)
    labels = np.zeros(len(images), "int64")
    logs = ensemble.evaluate(images, labels, batch_size=len(images), verbose=0, return_dict=True)
    return logs["penalty"]


def convolution_matrix(kernel, shape):
    """A same-padded 3x3 convolution of stride 1 as a matrix on flattened images, by plain loops."""
    height, width, channels = shape
    filters = kernel.shape[-1]
    matrix = np.zeros((height, width, filters, height, width, channels))
    for row, column in itertools.product(range(height), range(width)):
        for down, right in itertools.product(range(-1, 2), range(-1, 2)):
            if 0 <= row + down < height and 0 <= column + right < width:
                matrix[row, column, :, row + down, column + right, :] = kernel[
                    down + 1, right + 1
                ].T
    return matrix.reshape(height * width * filters, -1)


def reference_gradients(network, image, tap):
    """Input gradients of the summed outputs of `residual_network`'s convolutions, by matrices.

    The network is written out as matrices acting on one flattened image, in float64; a layer's
    gradient is the column sum of its Jacobian, the product of the matrices up to it.
    """
    height, width, _ = IMAGE_SHAPE
    layers = {layer.name: layer for layer in network.layers}
    norms = [
        layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]

    def convolve(layer, value, jacobian):
        kernel, bias = (w.numpy().astype("float64") for w in layer.weights)
        if kernel.shape[0] == 1:
            kernel = np.pad(kernel, [(1, 1), (1, 1), (0, 0), (0, 0)])
        matrix = convolution_matrix(kernel, (height, width, kernel.shape[2]))
        return matrix @ value + np.tile(bias, height * width), matrix @ jacobian

    def normalize(layer, value, jacobian):
        scale, offset, mean, variance = (w.numpy().astype("float64") for w in layer.weights)
        slope = scale / np.sqrt(variance + layer.epsilon)
        slopes = np.tile(slope, height * width)
        return slopes * value + np.tile(offset - mean * slope, height * width), slopes[
            :, None
        ] * jacobian

    def rectify(value, jacobian):
        return np.maximum(value, 0), (value > 0)[:, None] * jacobian

    taps, shortcut = [], (0.0, 0.0)
    value, jacobian = np.asarray(image, "float64").ravel(), np.eye(image.size)
    for name, norm in zip(("stem", "first", "second"), norms, strict=True):
        raw = convolve(layers[name], value, jacobian)
        value, jacobian = normalize(norm, *raw)
        if name == "second":
            value, jacobian = value + shortcut[0], jacobian + shortcut[1]
        value, jacobian = rectify(value, jacobian)
        if name == "stem":
            shortcut = convolve(layers["shortcut"], value, jacobian)
        taps.append((raw if tap == "convolution" else (value, jacobian))[1].sum(axis=0))
    return taps


@pytest.mark.parametrize("tap", ["activation", "convolution"])
@pytest.mark.parametrize("cosine", slow_except(["signed", "absolute", "positive"], "signed"))
def test_penalty_against_per_example_jacobians_in_float64(tap, cosine):
    members = [residual_network(seed) for seed in range(3)]
    images, _ = examples(4)
    transform = {"signed": float, "absolute": abs, "positive": lambda c: max(c, 0.0)}[cosine]
    expected = 0.0
    for image in images:
        gradients = [reference_gradients(member, image, tap) for member in members]
        for first, second in itertools.combinations(gradients, 2):
            for a, b in zip(first, second, strict=True):
                expected += transform(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) / len(images)
    found = penalty_of(members, images, num_layers=3, tap=tap, cosine=cosine)
    assert found == pytest.approx(expected, abs=2e-5)
    mean = penalty_of(members, images, num_layers=3, tap=tap, cosine=cosine, layer_reduction="mean")
    assert mean == pytest.approx(expected / 3, abs=2e-5)


def test_moving_statistics_make_the_penalty_per_example_and_batch_statistics_do_not():
    members = [residual_network(seed) for seed in range(2)]
    images, labels = examples(8)

    def first_step_penalty(chosen, mode):
        ensemble = parl_tf.PARL(
            [keras.models.clone_model(member) for member in members],
            num_layers=2,
            penalty_batch_norm=mode,
        )
        for copy, member in zip(ensemble.members, members, strict=True):
            copy.set_weights(member.get_weights())
        ensemble.compile(optimizer="sgd", loss=logits_loss(), run_eagerly=True)
        logs = ensemble.train_on_batch(images[chosen], labels[chosen], return_dict=True)
        return logs["penalty"]

    halves = [np.arange(4), np.arange(4, 8)]
    for mode, additive in (("moving", True), ("batch", False)):
        whole = first_step_penalty(np.arange(8), mode)
        parts = np.mean([first_step_penalty(half, mode) for half in halves])
        assert (abs(whole - parts) < 1e-5) == additive, mode
    assert first_step_penalty(np.arange(8), "moving") == pytest.approx(
        penalty_of(members, images, num_layers=2), abs=1e-5
    )


@pytest.mark.parametrize("penalty_batch_norm", ["moving", "batch"])
def test_derivative_against_finite_differences(float64, penalty_batch_norm):
    def network(seed):
        keras.utils.set_random_seed(seed)
        pixels = keras.Input((5, 5, 2))
        x = pixels
        for filters in (3, 2):
            x = keras.layers.Conv2D(filters, 3, padding="same")(x)
            if penalty_batch_norm == "moving":  # in inference mode on both sides
                x = keras.layers.BatchNormalization(trainable=False)(x)
            x = keras.layers.Activation("softplus")(x)
        return keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(x)))

    ensemble = parl_tf.PARL(
        [network(seed) for seed in range(3)],
        num_layers=2,
        diversity_weight=2.0,
        penalty_batch_norm=penalty_batch_norm,
    )
    generator = np.random.default_rng(0)
    images, labels = generator.uniform(size=(4, 5, 5, 2)), generator.integers(3, size=4)
    assert_step_follows_the_loss(ensemble, images, labels)


@pytest.mark.parametrize("num_members", [2, 3, 4])
def test_identical_members_give_k_per_pair(num_members):
    members = [residual_network(7) for _ in range(num_members)]
    pairs = num_members * (num_members - 1) / 2
    found = penalty_of(members, examples(5)[0], num_layers=3)
    assert found == pytest.approx(3 * pairs, rel=1e-5)


def test_first_kernels_of_opposite_sign_give_minus_one_on_raw_outputs():
    members = [residual_network(7), residual_network(7)]
    kernel, bias = members[1].get_layer("stem").get_weights()
    members[1].get_layer("stem").set_weights([-kernel, bias])
    found = penalty_of(members, examples(5)[0], num_layers=1, tap="convolution")
    assert found == pytest.approx(-1, rel=1e-5)


def test_penalty_sees_through_a_change_of_sign_on_activations_and_not_on_raw_outputs():
    network = residual_network(3)
    copy = sign_flipped_copy(network)
    images, _ = examples(6)
    np.testing.assert_array_equal(copy(images), network(images))
    for num_layers in (1, 2, 3):
        found = penalty_of([network, copy], images, num_layers=num_layers)
        assert found == pytest.approx(num_layers, rel=1e-6)
    assert penalty_of([network, copy], images, num_layers=3, tap="convolution") < 2


@pytest.mark.parametrize("penalty_batch_norm", ["moving", "batch"])
def test_zero_gradients_give_no_penalty_and_no_nan(penalty_batch_norm):
    members = [residual_network(seed) for seed in range(2)]
    kernel, bias = members[0].get_layer("stem").get_weights()
    members[0].get_layer("stem").set_weights([np.zeros_like(kernel), bias])
    ensemble = parl_tf.PARL(members, num_layers=3, penalty_batch_norm=penalty_batch_norm)
    ensemble.compile(optimizer="sgd", loss=logits_loss(), jit_compile=False)
    logs = ensemble.train_on_batch(*examples(6), return_dict=True)
    assert logs["penalty"] == 0
    assert all(np.isfinite(weight).all() for weight in ensemble.get_weights())


@keras.saving.register_keras_serializable(package="tests")
class Counter(keras.layers.Layer):
    """Passes its input on, and counts passes forward and backward."""

    forward = 0
    backward = 0

    def call(self, inputs):
        @tf.custom_gradient
        def count(value):
            type(self).forward += 1

            def gradient(upstream):
                type(self).backward += 1
                return upstream

            return value, gradient

        return count(inputs)


class LastCounter(Counter):
    forward = 0
    backward = 0


@pytest.mark.parametrize(
    ("penalty_batch_norm", "passes_of_the_first_layers"), [("batch", 3), ("moving", 6)]
)
def test_a_step_runs_each_member_once_and_computes_each_input_gradient_once(
    penalty_batch_norm, passes_of_the_first_layers
):
    def network(seed):
        pixels = keras.Input(IMAGE_SHAPE)
        x = Counter()(pixels)
        for _ in range(4):
            x = keras.layers.Conv2D(3, 3, padding="same", activation="relu")(x)
        x = keras.layers.Dense(NUM_CLASSES)(keras.layers.Flatten()(x))
        return keras.Model(pixels, LastCounter()(x))

    ensemble = parl_tf.PARL(
        [network(seed) for seed in range(3)], num_layers=2, penalty_batch_norm=penalty_batch_norm
    )
    ensemble.compile(optimizer="sgd", loss=logits_loss(), run_eagerly=True)
    ensemble.train_on_batch(*examples(4))
    for counter in (Counter, LastCounter):
        counter.forward = counter.backward = 0
    ensemble.train_on_batch(*examples(4))
    assert LastCounter.forward == 3  # N whole forward passes
    assert Counter.forward == passes_of_the_first_layers
    assert Counter.backward == 3 * 2  # N x K input gradients, none a second time for its pairs


def test_training_lowers_the_penalty():
    ensemble = parl_tf.PARL(
        [residual_network(s) for s in range(3)], num_layers=3, diversity_weight=1
    )
    ensemble.compile(optimizer=keras.optimizers.Adam(0.01), loss=logits_loss(), jit_compile=False)
    history = ensemble.fit(*examples(32), epochs=10, batch_size=16, verbose=0).history["penalty"]
    assert history[-1] < history[0] - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 4}, "num_layers from 1 to 3.*Received: 4"),
        ({"num_layers": 0}, "num_layers from 1 to 3"),
        ({"tap": "batch_norm"}, "zero input gradient"),
        ({"tap": "logits"}, "Unknown tap"),
        ({"penalty_batch_norm": "none"}, "Unknown penalty_batch_norm"),
        ({"layer_reduction": "max"}, "Unknown layer_reduction"),
        ({"cosine": "squared"}, "Unknown cosine"),
        ({"member_reduction": "max"}, "Unknown member_reduction"),
        ({"diversity_weight": float("nan")}, "finite weights"),
        ({"accuracy_weight": float("inf")}, "finite weights"),
    ],
)
def test_refuses_bad_arguments(arguments, message):
    members = [residual_network(seed) for seed in range(2)]
    with pytest.raises(InputError, match=message):
        parl_tf.PARL(members, **{"num_layers": 2, **arguments})


def test_refuses_a_network_without_activations():
    def linear(seed):
        pixels = keras.Input(IMAGE_SHAPE)
        x = keras.layers.BatchNormalization()(keras.layers.Conv2D(3, 3)(pixels))
        return keras.Model(pixels, keras.layers.Dense(4)(keras.layers.Flatten()(x)))

    with pytest.raises(InputError, match="No activation follows"):
        parl_tf.PARL([linear(0), linear(1)], num_layers=1)


def test_members_of_different_architecture():
    found = penalty_of([residual_network(0), plain_network(1)], examples(4)[0], num_layers=2)
    assert -2 <= found <= 2


@pytest.mark.slow
def test_wide_resnets_are_members_like_any_other():
    members = [
        parl_tf.wide_resnet(4, input_shape=(8, 8, 3), depth=10, width=1, seed=seed)
        for seed in range(2)
    ]
    ensemble = parl_tf.PARL(members, num_layers=7)
    ensemble.compile(optimizer="sgd", loss=logits_loss(), jit_compile=False)
    logs = ensemble.train_on_batch(*examples(6), return_dict=True)
    assert np.isfinite(logs["loss"])
    assert all(logs[f"penalty_{layer}"] != 0 for layer in range(1, 8))
