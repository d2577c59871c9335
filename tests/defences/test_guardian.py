"""Guardian's penalty against plain NumPy and finite differences."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.derivatives import assert_step_follows_the_loss
from harness.networks import (
    examples,
    logits_loss,
    plain_network,
    residual_network,
    sign_flipped_copy,
)

import parl_tf
from parl_tf.defences.forward import ForwardPass
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


AS_WRITTEN = {"stem_tap": None, "norms": "differentiated", "correlation": "pearson"}


def ensemble_of(members, num_layers=LAYERS, **arguments):
    """Guardian as the paper's text has it, unless told otherwise."""
    arguments = {"num_layers": num_layers, **AS_WRITTEN, **arguments}
    ensemble = parl_tf.Guardian(members, **arguments)
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


AUTHORS = {"stem_tap": "activation", "norms": "constant", "correlation": "biased"}


def test_the_defaults_are_what_the_authors_code_computes():
    ensemble = parl_tf.Guardian([smooth_network(0), smooth_network(1)], num_layers=2)
    config = ensemble.get_config()
    assert {key: config[key] for key in AUTHORS} == AUTHORS
    assert (config["tap"], config["member_reduction"]) == ("convolution", "mean")


def compared_by_hand(network, images):
    """Of the first layer the activation behind it, of the others the raw output."""
    stem, *others = raw_outputs_by_hand(*convolutions_of(network), images)
    return [np.logaddexp(stem, 0), *others]


def penalty_by_hand(members, images):
    """As the authors' code has it: covariance / n, deviations with n - 1; both factors' sums."""
    correlation, count = 0.0, len(images)
    outputs = [compared_by_hand(member, images) for member in members]
    for first, second in itertools.combinations(outputs, 2):
        for k in range(LAYERS):
            a, b = (output[k].reshape(count, -1) for output in (first, second))
            covariance = ((a - a.mean(axis=0)) * (b - b.mean(axis=0))).sum(axis=0) / count
            deviations = a.std(axis=0, ddof=1) * b.std(axis=0, ddof=1)
            correlation += (covariance / deviations).mean()
    return stem_and_raw_cosine_by_hand(members, images), correlation


def stem_and_raw_cosine_by_hand(members, images):
    vectors = [stem_and_raw_gradients_by_hand(member, images) for member in members]
    return sum(
        first[k] @ second[k] / np.linalg.norm(first[k]) / np.linalg.norm(second[k])
        for first, second in itertools.combinations(vectors, 2)
        for k in range(LAYERS)
    )


def stem_and_raw_gradients_by_hand(network, images):
    """Central differences of what is compared of each layer, kernel entry by kernel entry."""
    kernels, biases = convolutions_of(network)
    stem = []
    for entry in np.ndindex(kernels[0].shape):
        original, sums = kernels[0][entry], []
        for sign in (1, -1):
            kernels[0][entry] = original + sign * 1e-5
            raw = raw_outputs_by_hand(kernels[:1], biases[:1], images)[0]
            sums.append(np.logaddexp(raw, 0).sum())
        kernels[0][entry] = original
        stem.append((sums[0] - sums[1]) / 2e-5)
    return [np.array(stem), *kernel_gradients_by_hand(network, images)[1:]]


@pytest.mark.parametrize("count", [5, 2])
def test_both_factors_by_default_against_numpy(float64, count):
    members = [smooth_network(seed) for seed in range(3)]
    images, labels = batch(count)
    cosine, correlation = penalty_by_hand(members, images)
    logs = evaluated(ensemble_of(members, **AUTHORS), images, labels)
    assert logs["kernel_cosine"] == pytest.approx(cosine, rel=1e-7)
    assert logs["output_correlation"] == pytest.approx(correlation, rel=1e-9)
    assert logs["penalty"] == pytest.approx(cosine * correlation / LAYERS, rel=1e-7)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_biased_correlation_is_a_share_of_pearsons(float64, count):
    members = [smooth_network(seed) for seed in range(3)]
    images, labels = batch(count)
    biased, pearson = (
        evaluated(ensemble_of(members, correlation=each), images, labels)["output_correlation"]
        for each in ("biased", "pearson")
    )
    assert biased == pytest.approx((count - 1) / count * pearson, rel=1e-12)


def test_the_stem_can_be_compared_alone_and_then_its_cosine_can_differ_from_one(float64):
    members = [smooth_network(seed) for seed in range(3)]
    images, labels = batch()
    raw, active = (
        evaluated(ensemble_of(members, 1, stem_tap=tap), images, labels)["kernel_cosine"]
        for tap in ("convolution", "activation")
    )
    assert raw == pytest.approx(3, rel=1e-12)
    vectors = [stem_and_raw_gradients_by_hand(member, images)[0] for member in members]
    units = [vector / np.linalg.norm(vector) for vector in vectors]
    expected = sum(first @ second for first, second in itertools.combinations(units, 2))
    assert active == pytest.approx(expected, rel=1e-7)
    assert abs(active - 3) > 1e-3


def test_behind_a_normalised_stem_the_activation_after_it_is_compared():
    members = [residual_network(seed) for seed in range(2)]
    images, _ = examples(4)
    ensemble = parl_tf.Guardian(members, num_layers=2)
    _, layers = ensemble.forward_member(0, tf.constant(images), False)
    expected = keras.Model(
        members[0].input,
        [members[0].layers[3].output, members[0].get_layer("first").output],
    )
    assert isinstance(members[0].layers[3], keras.layers.Activation)
    for found, each in zip(layers[:2], expected(images, training=False), strict=True):
        np.testing.assert_allclose(found, each, atol=1e-6)


@pytest.mark.parametrize("norms", ["constant", "differentiated"])
def test_derivative_of_the_cosine_against_finite_differences_of_its_numerator(float64, norms):
    members = [smooth_network(seed) for seed in range(2)]
    ensemble = ensemble_of(members, norms=norms, stem_tap="activation")
    images, labels = map(tf.constant, batch())
    ensemble.compile(loss=logits_loss(), run_eagerly=True)
    kernels = [layer.kernel for m in members for layer in m.layers if hasattr(layer, "kernel")]
    with tf.GradientTape() as tape:
        tape.watch([kernel.value for kernel in kernels])
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(ensemble.watched())
            passes = [ensemble.forward_member(i, images, False) for i in range(2)]
        layers = [outputs for _, outputs in passes]
        forward = ForwardPass(
            images, labels, labels, [logits for logits, _ in passes], layers, [], inner, False
        )
        cosine = ensemble.terms(forward)["kernel_cosine"]
    gradient = tape.gradient(cosine, [kernel.value for kernel in kernels])

    def vectors():
        return [stem_and_raw_gradients_by_hand(member, images.numpy()) for member in members]

    def norms_of(both):
        return [np.linalg.norm(a) * np.linalg.norm(b) for a, b in zip(*both, strict=True)]

    held = norms_of(vectors())
    before = [kernel.numpy() for kernel in kernels]
    generator = np.random.default_rng(0)
    for _ in range(3):
        direction = [generator.normal(size=each.shape) for each in before]
        values = []
        for sign in (1, -1):
            for kernel, was, d in zip(kernels, before, direction, strict=True):
                kernel.assign(was + sign * 1e-3 * d)
            both = vectors()
            lengths = held if norms == "constant" else norms_of(both)
            products = [a @ b for a, b in zip(*both, strict=True)]
            values.append(sum(p / length for p, length in zip(products, lengths, strict=True)))
        derivative = sum(
            np.sum(g * d) for g, d in zip(gradient, direction, strict=True) if g is not None
        )
        assert (values[0] - values[1]) / 2e-3 == pytest.approx(derivative, rel=1e-3)


def test_a_file_from_before_there_was_a_choice_keeps_what_was_done_then():
    members = [smooth_network(seed) for seed in range(2)]

    def read(*missing):
        config = parl_tf.Guardian(members, num_layers=2, tap="activation").get_config()
        kept = {key: value for key, value in config.items() if key not in missing}
        again = parl_tf.Guardian.from_config(kept).get_config()
        return {key: again[key] for key in AUTHORS}

    assert read(*AUTHORS) == AS_WRITTEN
    assert read() == AUTHORS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stem_tap": "raw"}, "Unknown tap"),
        ({"stem_tap": "batch_norm"}, "zero input gradient"),
        ({"norms": "constants"}, "Unknown norms. Did you mean constant"),
        ({"correlation": "person"}, "Unknown correlation. Did you mean pearson"),
        ({"num_layers": 0}, "num_layers from 1"),
    ],
)
def test_refuses_bad_choices(arguments, message):
    with pytest.raises(InputError, match=message):
        ensemble_of([smooth_network(0), smooth_network(1)], **arguments)
