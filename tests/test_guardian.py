"""Guardian's penalty against plain NumPy and finite differences."""

import itertools

import keras
import numpy as np
import pytest
from derivatives import assert_step_follows_the_loss
from networks import (
    examples,
    logits_loss,
    plain_network,
    residual_network,
    sign_flipped_copy,
)

import parl_tf
from parl_tf.errors import InputError

LAYERS = 3


def smooth_network(seed, *, normalized=False, filters=2):
    """Convolutions with a smooth activation, perhaps normalised."""
    keras.utils.set_random_seed(seed)
    pixels = x = keras.Input((4, 4, 2))
    for _ in range(LAYERS):
        x = keras.layers.Conv2D(filters, 3, padding="same", bias_initializer="random_normal")(x)
        if normalized:
            x = keras.layers.BatchNormalization()(x)
        x = keras.layers.Activation("softplus")(x)
    return keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def ensemble_of(members, num_layers=LAYERS, **arguments):
    ensemble = parl_tf.Guardian(members, num_layers=num_layers, **arguments)
    ensemble.compile(optimizer=keras.optimizers.SGD(1.0), loss=logits_loss(), run_eagerly=True)
    return ensemble


def batch(count=5):
    generator = np.random.default_rng(0)
    images = generator.uniform(size=(count, 4, 4, 2)).astype(keras.config.floatx())
    return images, generator.integers(3, size=count)


def evaluated(ensemble, images, labels):
    return ensemble.evaluate(images, labels, batch_size=len(images), verbose=0, return_dict=True)


def convolutions_of(network):
    """Kernels and biases."""
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    return [layer.kernel.numpy() for layer in layers], [layer.bias.numpy() for layer in layers]


def raw_outputs_by_hand(kernels, biases, images):
    """What each convolution of `smooth_network` puts out, before its activation."""
    outputs, value = [], images
    for kernel, bias in zip(kernels, biases, strict=True):
        padded = np.pad(value, [(0, 0), (1, 1), (1, 1), (0, 0)])
        output = np.zeros((*images.shape[:3], len(bias))) + bias
        for down, right in itertools.product(range(3), repeat=2):
            output += padded[:, down : down + 4, right : right + 4] @ kernel[down, right]
        outputs.append(output)
        value = np.logaddexp(output, 0)
    return outputs


def kernel_gradients_by_hand(network, images):
    """For each layer the derivatives of its summed raw output, kernel entry by kernel entry."""
    kernels, biases = convolutions_of(network)
    gradients = []
    for layer in range(LAYERS):
        derivatives = []
        for kernel in kernels[: layer + 1]:
            for entry in np.ndindex(kernel.shape):
                original, sums = kernel[entry], []
                for sign in (1, -1):
                    kernel[entry] = original + sign * 1e-5
                    sums.append(raw_outputs_by_hand(kernels, biases, images)[layer].sum())
                kernel[entry] = original
                derivatives.append((sums[0] - sums[1]) / 2e-5)
        gradients.append(np.array(derivatives))
    return gradients


def cosine_by_hand(members, images, num_layers):
    gradients = [kernel_gradients_by_hand(member, images) for member in members]
    return sum(
        first[k] @ second[k] / np.linalg.norm(first[k]) / np.linalg.norm(second[k])
        for first, second in itertools.combinations(gradients, 2)
        for k in range(num_layers)
    )


def correlation_by_hand(members, images, num_layers):
    outputs = [raw_outputs_by_hand(*convolutions_of(member), images) for member in members]
    total = 0.0
    for first, second in itertools.combinations(outputs, 2):
        for k in range(num_layers):
            units = (output[k].reshape(len(images), -1).T for output in (first, second))
            total += np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*units, strict=True)])
    return total


def cross_entropy_by_hand(members, images, labels):
    """The mean over members."""
    powers = np.exp([member(images) for member in members])
    probabilities = powers / powers.sum(axis=-1, keepdims=True)
    return -np.log(probabilities[:, range(len(labels)), labels]).mean()


@pytest.mark.parametrize("num_layers", [2, 3])
def test_kernel_cosine_against_finite_differences(float64, num_layers):
    members = [smooth_network(seed) for seed in range(3)]
    images, labels = batch()
    expected = cosine_by_hand(members, images, num_layers)
    found = evaluated(ensemble_of(members, num_layers), images, labels)["kernel_cosine"]
    assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("num_layers", [2, 3])
def test_output_correlation_against_numpy(float64, num_layers):
    members = [smooth_network(seed) for seed in range(3)]
    images, labels = batch()
    expected = correlation_by_hand(members, images, num_layers)
    found = evaluated(ensemble_of(members, num_layers), images, labels)["output_correlation"]
    assert found == pytest.approx(expected, rel=1e-9)


def test_loss_is_the_mean_cross_entropy_and_the_product_of_both_sums(float64):
    members = [smooth_network(seed) for seed in range(3)]
    images, labels = batch()
    cosine, correlation = (
        by_hand(members, images, LAYERS) for by_hand in (cosine_by_hand, correlation_by_hand)
    )
    logs = evaluated(ensemble_of(members), images, labels)
    assert logs["penalty"] == pytest.approx(cosine * correlation / LAYERS, rel=1e-7)
    expected = cross_entropy_by_hand(members, images, labels) + 0.25 * logs["penalty"]
    assert logs["loss"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num_members", [2, 4])
@pytest.mark.parametrize("tap", ["convolution", "activation"])
def test_identical_members_give_k_per_pair(num_members, tap):
    members = [smooth_network(7) for _ in range(num_members)]
    logs = evaluated(ensemble_of(members, tap=tap), *batch())
    pairs = num_members * (num_members - 1) / 2
    assert logs["kernel_cosine"] == pytest.approx(3 * pairs, rel=1e-5)
    assert logs["output_correlation"] == pytest.approx(3 * pairs, rel=1e-5)


def test_the_first_raw_output_gives_all_members_one_kernel_gradient():
    members = [smooth_network(seed) for seed in range(3)]
    found = evaluated(ensemble_of(members, 1), *batch())["kernel_cosine"]
    assert found == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize("tap", ["convolution", "activation"])
def test_derivative_against_finite_differences(float64, tap):
    members = [smooth_network(seed) for seed in range(2)]
    ensemble = ensemble_of(members, 2, tap=tap, diversity_weight=2.0)
    assert_step_follows_the_loss(ensemble, *batch(), rel=1e-5)


@pytest.mark.parametrize(("channels", "correlation"), [((0,), 0.5), ((0, 1, 2, 3), -1)])
def test_correlation_sees_through_a_change_of_sign_on_activations_and_not_on_raw_outputs(
    channels, correlation
):
    network = residual_network(3, activation="softplus")
    copy = sign_flipped_copy(network, channels)
    images, labels = examples(6)
    np.testing.assert_array_equal(copy(images), network(images))
    for tap, expected in (("activation", 1), ("convolution", correlation)):
        logs = evaluated(ensemble_of([network, copy], tap=tap), images, labels)
        assert logs["output_correlation"] == pytest.approx(LAYERS * expected, rel=1e-5), tap


@pytest.mark.parametrize(("tap", "cosine"), [("activation", -1), ("convolution", 1)])
def test_kernel_cosine_sees_through_a_change_of_sign_on_raw_outputs_and_not_on_activations(
    tap, cosine
):
    network = residual_network(3, activation="softplus")
    copy = sign_flipped_copy(network, (0, 1, 2, 3))
    found = evaluated(ensemble_of([network, copy], tap=tap), *examples(6))["kernel_cosine"]
    assert found == pytest.approx(LAYERS * cosine, rel=1e-5)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_outputs_that_do_not_vary_have_no_correlation(count):
    members = [smooth_network(seed) for seed in range(3)]
    logs = evaluated(ensemble_of(members), batch(1)[0].repeat(count, axis=0), np.zeros(count))
    assert logs["output_correlation"] == logs["penalty"] == 0


@pytest.mark.parametrize("images", [batch(1)[0], np.zeros((5, 4, 4, 2), "float32")])
def test_outputs_that_do_not_vary_train_to_finite_weights(images):
    ensemble = ensemble_of([smooth_network(seed) for seed in range(3)])
    labels = np.zeros(len(images), "int64")
    logs = ensemble.train_on_batch(images, labels, return_dict=True)
    assert all(np.isfinite(value) for value in logs.values()), logs
    assert all(np.isfinite(weight).all() for weight in ensemble.get_weights())


def test_refuses_kernels_of_different_shapes():
    members = [smooth_network(0), smooth_network(1, filters=3)]
    with pytest.raises(InputError, match="kernels of the same shapes. Received: .*3, 3, 2, 3"):
        ensemble_of(members)


def test_refuses_raw_outputs_that_are_not_in_the_graph():
    with pytest.raises(InputError, match="applies its activation itself"):
        ensemble_of([plain_network(0), plain_network(1)], 2)
