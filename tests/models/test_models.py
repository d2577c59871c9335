import itertools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from parl_tf.attacks.sgm import scale_residual_gradients
from parl_tf.data.datasets import PIXEL_STATISTICS
from parl_tf.errors import InputError
from parl_tf.graphs.exposure import count_convolutions, expose_layers, layer_outputs
from parl_tf.graphs.folding import FoldedNetwork
from parl_tf.graphs.layer_sums import LayerSums
from parl_tf.models import NETWORKS
from parl_tf.models.penalties import penalize_all_weights
from parl_tf.models.resnet import resnet20
from parl_tf.models.wide_resnet import wide_resnet

SMALL = (8, 8, 3)
IMAGES = tf.random.stateless_uniform((4, *SMALL), seed=(0, 0))


def small_resnet20(**arguments):
    return resnet20(**{"num_classes": 10, "input_shape": SMALL, "seed": 0, **arguments})


def weighted_layers(model, *kinds):
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def network():
    return small_resnet20()


@pytest.mark.parametrize(("num_classes", "parameters"), [(10, 274_442), (100, 280_292)])
def test_number_of_parameters(num_classes, parameters):
    model = resnet20(num_classes)
    assert model.count_params() == parameters
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, num_classes)


def test_outputs_are_logits_for_any_image_size():
    model = small_resnet20(num_classes=7, input_shape=(12, 10, 1), name="gray")
    logits = model(np.random.default_rng(0).uniform(size=(5, 12, 10, 1)))
    assert logits.shape == (5, 7)
    assert model.name == "gray"
    assert np.min(logits) < 0
    assert not np.allclose(np.sum(logits, axis=-1), 1, atol=0.1)


STATISTICS = ((0.2, 0.5, 0.4), (0.3, 0.1, 2.0))


@pytest.mark.parametrize(
    ("normalization", "mean", "deviation"),
    [
        ("cifar10", *PIXEL_STATISTICS["cifar10"]),
        ("cifar100", *PIXEL_STATISTICS["cifar100"]),
        ("digits", *PIXEL_STATISTICS["digits"]),
        (STATISTICS, *STATISTICS),
        (np.array(STATISTICS), *STATISTICS),
        ((0.5, [0.1, 0.2, 0.3]), 0.5, (0.1, 0.2, 0.3)),
        ((0.5, 0.25), 0.5, 0.25),
        (None, 0, 1),
    ],
)
def test_pixels_are_normalised_inside(network, normalization, mean, deviation):
    by_hand = ((np.array(IMAGES) - np.array(mean)) / np.array(deviation)).astype("float32")
    found = small_resnet20(normalization=normalization)(IMAGES)
    np.testing.assert_allclose(found, network(by_hand), rtol=1e-4, atol=1e-4)


def test_normalization_changes_no_weights(network):
    model = small_resnet20(normalization="cifar10")
    assert_same(model.trainable_weights, network.trainable_weights)
    assert model.count_params() == network.count_params()


def test_the_seed_decides_the_weights_and_the_global_generator_does_not(network):
    for global_seed in (1, 2):
        keras.utils.set_random_seed(global_seed)
        assert_same(small_resnet20().get_weights(), network.get_weights())


def kernels(model):
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    return [np.array(layer.kernel) for layer in weighted_layers(model, *kinds)]


def test_another_seed_gives_other_weights(network):
    for found, other in zip(kernels(small_resnet20(seed=1)), kernels(network), strict=True):
        assert np.mean(found == other) < 0.01


def test_without_a_seed_each_network_is_new():
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        drawn.append(kernels(small_resnet20(seed=None)))
    for first, second in zip(*drawn, strict=True):
        assert np.mean(first == second) < 0.01


def test_each_kernel_starts_on_its_own_at_the_scale_of_he(network):
    values = kernels(network)
    assert len(values) == 22
    for first, second in itertools.combinations(values, 2):
        size = min(first.size, second.size)
        assert np.abs(np.corrcoef(first.flat[:size], second.flat[:size])[0, 1]) < 0.3
    for kernel in values:
        fan_in = np.prod(kernel.shape[:-1])
        assert kernel.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.15)
    layers = weighted_layers(network, keras.layers.Conv2D, keras.layers.Dense)
    assert len({layer.kernel_initializer.seed for layer in layers}) == 22


def test_shortcuts_are_two_convolutions_without_batch_norm(network):
    convolutions = weighted_layers(network, keras.layers.Conv2D)
    assert [c.kernel_size for c in convolutions].count((3, 3)) == 19
    shortcuts = [c for c in convolutions if c.kernel_size == (1, 1)]
    assert [(c.filters, c.strides) for c in shortcuts] == [(32, (2, 2)), (64, (2, 2))]
    assert len(weighted_layers(network, keras.layers.BatchNormalization)) == 19
    assert all(c.use_bias for c in convolutions)


def test_kernels_of_convolutions_are_regularised_and_nothing_else(network):
    convolutions = weighted_layers(network, keras.layers.Conv2D)
    assert len(network.losses) == len(convolutions) == 21
    expected = 1e-4 * sum(np.sum(np.square(c.kernel)) for c in convolutions)
    assert float(sum(network.losses)) == pytest.approx(expected, rel=1e-5)


AS_IN_PYTORCH = {
    "padding": "symmetric",
    "batch_norm_epsilon": 1.001e-5,
    "batch_norm_momentum": 0.9,
}
WITHOUT_BIAS = {"convolution_bias": False, "shortcut_batch_norm": True, **AS_IN_PYTORCH}
VARIANTS = {
    "resnet20": {},
    "resnet20-leaky-relu": {"activation": "leaky_relu"},
    "resnet20-shortcut-batch-norm": WITHOUT_BIAS,
    "resnet20-bare-stem": {"stem_batch_norm": False, **AS_IN_PYTORCH},
    "resnet8": {"blocks": 1},
    "resnet8-shortcut-batch-norm": {"blocks": 1, **WITHOUT_BIAS},
}


@pytest.mark.parametrize(("name", "arguments"), VARIANTS.items())
def test_variants_by_name_are_those_by_argument(name, arguments):
    options = {"num_classes": 10, "input_shape": SMALL, "seed": 0}
    found, expected = NETWORKS[name](**options), resnet20(**options, **arguments)
    assert [type(layer) for layer in found.layers] == [type(layer) for layer in expected.layers]
    np.testing.assert_array_equal(found(IMAGES), expected(IMAGES))


def test_leaky_network_has_the_slope_of_its_authors_everywhere():
    model = small_resnet20(activation="leaky_relu")
    slopes = [layer.negative_slope for layer in weighted_layers(model, keras.layers.LeakyReLU)]
    assert slopes == [0.1] * 19
    assert not weighted_layers(model, keras.layers.ReLU)


def test_network_without_biases_normalises_its_shortcuts():
    model = resnet20(10, convolution_bias=False, shortcut_batch_norm=True)
    assert not any(c.use_bias for c in weighted_layers(model, keras.layers.Conv2D))
    assert len(weighted_layers(model, keras.layers.BatchNormalization)) == 21
    # 16 * 27 and 6 * 16^2 * 9 kernels, and so on; a scale and an offset for each channel.
    stages = [6 * 16**2 * 9, 16 * 32 * 10 + 5 * 32**2 * 9, 32 * 64 * 10 + 5 * 64**2 * 9]
    norms = 2 * (7 * 16 + 7 * 32 + 7 * 64)
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert trainable == 16 * 27 + sum(stages) + norms + 650 == 272_474


def test_network_with_a_bare_stem_activates_its_first_convolution():
    model = small_resnet20(stem_batch_norm=False)
    assert len(weighted_layers(model, keras.layers.BatchNormalization)) == 18
    _, first = expose_layers(model, 1)(IMAGES)
    stem = weighted_layers(model, keras.layers.Conv2D)[0]
    np.testing.assert_allclose(first, tf.nn.relu(stem(IMAGES)), atol=1e-6)


def convolved_by_hand(x, layer, strides, margin):
    """Entry by entry, the image padded by `margin` pixels on every side."""
    kernel = layer.kernel.numpy().astype("float64")
    size = kernel.shape[0]
    padded = np.pad(x, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    rows = (padded.shape[1] - size) // strides + 1
    columns = (padded.shape[2] - size) // strides + 1
    found = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for row, column in itertools.product(range(rows), range(columns)):
        top, left = strides * row, strides * column
        window = padded[:, top : top + size, left : left + size]
        found[:, row, column] = np.tensordot(window, kernel, axes=3)
    return found + (layer.bias.numpy() if layer.use_bias else 0)


def normalised_by_hand(x, layer):
    scale, offset, mean, variance = (w.numpy().astype("float64") for w in layer.weights)
    return scale * (x - mean) / np.sqrt(variance + 1.001e-5) + offset


@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("name", ["resnet20-shortcut-batch-norm", "resnet20-bare-stem"])
def test_networks_from_pytorch_are_those_by_numpy_alone(name, size):
    network = NETWORKS[name](10, input_shape=(size, size, 3), blocks=1, seed=0)
    draw = np.random.default_rng(0)
    norms = weighted_layers(network, keras.layers.BatchNormalization)
    for norm in norms:  # variances as small as epsilon too
        norm.set_weights([draw.uniform(0.5, 1.5, w.shape) for w in norm.weights])
        norm.moving_variance.assign(10.0 ** draw.uniform(-5, 0, norm.moving_variance.shape))
        norm.gamma.assign(np.sqrt(norm.moving_variance))
    for convolution in weighted_layers(network, keras.layers.Conv2D):
        if convolution.use_bias:
            convolution.bias.assign(draw.normal(size=convolution.bias.shape))
    images = draw.uniform(size=(2, size, size, 3))

    convolutions = iter(weighted_layers(network, keras.layers.Conv2D))
    norms = iter(norms)
    bare = name == "resnet20-bare-stem"
    x = convolved_by_hand(images, next(convolutions), 1, 1)
    x = np.maximum(x if bare else normalised_by_hand(x, next(norms)), 0)
    for stage in range(3):
        strides = 2 if stage else 1
        first = next(convolutions)
        assert first.strides == (strides, strides)
        y = np.maximum(normalised_by_hand(convolved_by_hand(x, first, strides, 1), next(norms)), 0)
        # Layers of one depth are in the order of their making: branch, then shortcut.
        second = next(convolutions)
        y = convolved_by_hand(y, second, 1, 1)
        if stage:
            shortcut = next(convolutions)
            assert shortcut.kernel_size == (1, 1)
            x = convolved_by_hand(x, shortcut, strides, 0)
        y = normalised_by_hand(y, next(norms))
        if stage and not bare:
            x = normalised_by_hand(x, next(norms))
        x = np.maximum(x + y, 0)
    kernel, bias = network.layers[-1].get_weights()
    expected = x.mean(axis=(1, 2)) @ kernel + bias
    assert np.abs(expected).max() > 0.1
    found = network(images.astype("float32"), training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_padding_decides_the_values_on_even_sizes_and_neither_shapes_nor_weights(network):
    symmetric = small_resnet20(padding="symmetric")
    assert symmetric.count_params() == network.count_params()
    assert_same(symmetric.get_weights(), network.get_weights())
    assert np.abs(symmetric(IMAGES) - network(IMAGES)).max() > 1e-2
    odd = {"input_shape": (5, 5, 3)}  # where "same" is one pixel on every side
    pair = [small_resnet20(padding=padding, **odd) for padding in ("same", "symmetric")]
    np.testing.assert_allclose(pair[0](IMAGES[:, :5, :5]), pair[1](IMAGES[:, :5, :5]), atol=1e-5)


def test_moving_statistics_of_the_authors_networks_keep_nine_tenths():
    model = NETWORKS["resnet8-shortcut-batch-norm"](10, input_shape=SMALL, seed=0)
    norms = weighted_layers(model, keras.layers.BatchNormalization)
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(0.9, 1.001e-5)}
    stem = weighted_layers(model, keras.layers.Conv2D)[0]
    mean = stem(IMAGES).numpy().mean(axis=(0, 1, 2))
    model(IMAGES, training=True)
    np.testing.assert_allclose(norms[0].moving_mean, 0.1 * mean, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("tap", ["activation", "convolution"])
def test_layers_behind_explicit_padding_are_exposed_and_summed(tap):
    """The symbolic input of a strided convolution is then the padded image."""
    model = NETWORKS["resnet8-shortcut-batch-norm"](10, input_shape=SMALL, seed=0)
    assert count_convolutions(model) == 7
    exposed = expose_layers(model, 7, tap=tap)(IMAGES)[1:]
    assert [output.shape[1] for output in exposed] == [8, 8, 8, 4, 4, 2, 2]
    sums = LayerSums(model, 7, tap=tap)
    values = keras.Model(model.input, sums.sources)(IMAGES)
    zero = keras.Model(model.input, sums.sources)(tf.zeros_like(IMAGES))
    for made, of_zero, output, of_zero_output in zip(
        sums(values),
        sums(zero),
        exposed,
        expose_layers(model, 7, tap=tap)(0 * IMAGES)[1:],
        strict=True,
    ):
        axes = [1, 2, 3]
        # Equal but for a constant, which a convolution without bias does not have.
        np.testing.assert_allclose(
            tf.reduce_sum(made, axes) - tf.reduce_sum(of_zero, axes),
            tf.reduce_sum(output, axes) - tf.reduce_sum(of_zero_output, axes),
            rtol=1e-3,
            atol=1e-2,
        )


def test_explicit_padding_folds_and_keeps_its_residual_blocks():
    model = NETWORKS["resnet8-shortcut-batch-norm"](10, input_shape=SMALL, seed=0)
    for norm in weighted_layers(model, keras.layers.BatchNormalization):
        draw = np.random.default_rng(0)
        norm.set_weights([draw.uniform(0.5, 1.5, w.shape) for w in norm.weights])
    folded = FoldedNetwork(model)
    assert len(folded.weights()) == 9  # all convolutions, those on shortcuts too
    (found,) = tf.function(folded)(IMAGES)
    np.testing.assert_allclose(found, model(IMAGES, training=False), rtol=1e-4, atol=1e-4)
    scaled = scale_residual_gradients(model, 0.5)
    np.testing.assert_allclose(scaled(IMAGES), model(IMAGES), atol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 3e-4])
def test_kernel_penalty_is_that_asked_for(penalty):
    model = small_resnet20(kernel_penalty=penalty)
    kernels_of_convolutions = [c.kernel for c in weighted_layers(model, keras.layers.Conv2D)]
    expected = penalty * sum(np.sum(np.square(kernel)) for kernel in kernels_of_convolutions)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


def test_wide_resnet_28_10_has_the_known_number_of_parameters():
    model = NETWORKS["wide-resnet-28-10"](10)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 36_479_194
    assert len(layer_outputs(model, 25)) == 25
    with pytest.raises(InputError, match="from 1 to 25"):
        layer_outputs(model, 26)


def test_wide_resnet_activates_before_its_convolutions():
    model = wide_resnet(5, input_shape=SMALL, depth=16, width=1, seed=0)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds[1:6] == ["Conv2D", "BatchNormalization", "ReLU", "Conv2D", "BatchNormalization"]
    assert kinds[-4:] == ["BatchNormalization", "ReLU", "GlobalAveragePooling2D", "Dense"]
    assert model(IMAGES).shape == (4, 5)
    shortcuts = [c for c in weighted_layers(model, keras.layers.Conv2D) if c.kernel_size == (1, 1)]
    assert [c.filters for c in shortcuts] == [16, 32, 64]
    # The second convolution of a block is activated in the next block, not at the end.
    activations = layer_outputs(model, 13)
    assert [tensor.shape[-1] for tensor in activations] == [16] * 5 + [32] * 4 + [64] * 4
    assert len({id(tensor) for tensor in activations}) == 13


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 27}, "depth of 10, 16, 22, 28"),
        ({"depth": 4}, "depth of 10"),
        ({"width": 0}, "width of at least 1"),
        ({"num_classes": 1}, "num_classes of at least 2"),
        ({"kernel_penalty": -1.0}, "kernel_penalty of at least 0"),
    ],
)
def test_wide_resnet_refuses_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        wide_resnet(**{"num_classes": 10, "input_shape": SMALL, **arguments})


@pytest.mark.parametrize("tap", ["activation", "convolution"])
def test_exposed_outputs_come_after_the_logits(network, tap):
    model = small_resnet20(num_exposed=3, tap=tap)
    logits, *outputs = model(IMAGES)
    assert [output.shape for output in outputs] == [(4, 8, 8, 16)] * 3
    np.testing.assert_array_equal(logits, network(IMAGES))
    assert_same(outputs, expose_layers(network, 3, tap=tap)(IMAGES)[1:])


def test_an_exposed_network_keeps_its_name():
    assert small_resnet20(num_exposed=1, name="member").name == "member"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes of at least 2. Received: 1"),
        ({"num_classes": 0}, "num_classes of at least 2. Received: 0"),
        ({"num_exposed": -1}, "num_exposed of at least 0. Received: -1"),
        ({"num_exposed": 20}, "num_layers from 1 to 19.*Received: 20"),
        ({"num_exposed": 1, "tap": "logits"}, "Unknown tap.*Received: 'logits'"),
        ({"num_exposed": 1, "tap": "batch_norm"}, "zero input gradient"),
        ({"tap": "logits"}, "Unknown tap.*Received: 'logits'"),
        ({"normalization": "cifar1O"}, "Unknown normalization. Did you mean cifar10"),
        ({"normalization": (0.5, 0.0)}, "positive deviation. Received"),
        ({"normalization": (0.5, -1.0)}, "positive deviation. Received"),
        ({"normalization": (float("nan"), 1.0)}, "finite mean"),
        ({"normalization": (0.5, float("inf"))}, "finite mean and a positive deviation"),
        ({"normalization": ((0.1, 0.2), 0.5)}, "each a number or 3 numbers"),
        ({"normalization": (0.5, (0.1, 0.2))}, "each a number or 3 numbers"),
        ({"normalization": "cifar10", "input_shape": (8, 8, 1)}, "each a number or 1 numbers"),
        ({"normalization": (0.1, 0.2, 0.3)}, r"\(mean, deviation\).*Received"),
        ({"normalization": (0.5,)}, r"\(mean, deviation\).*Received"),
        ({"normalization": 0.5}, r"\(mean, deviation\).*Received"),
        ({"normalization": ("mean", "deviation")}, r"\(mean, deviation\).*Received"),
        ({"input_shape": (8, 8)}, r"input_shape.*Received: \(8, 8\)"),
        ({"seed": -1}, "seed.*Received: -1"),
        ({"activation": "lealy_relu"}, "Unknown activation. Did you mean leaky_relu"),
        ({"kernel_penalty": -1.0}, "kernel_penalty of at least 0"),
        ({"padding": "symetric"}, "Unknown padding. Did you mean symmetric"),
        ({"batch_norm_epsilon": 0.0}, "positive batch_norm_epsilon. Received: 0.0"),
        ({"batch_norm_epsilon": -1e-5}, "positive batch_norm_epsilon"),
        ({"batch_norm_momentum": 1.0}, r"batch_norm_momentum in \[0, 1\). Received: 1.0"),
        ({"batch_norm_momentum": -0.1}, r"batch_norm_momentum in \[0, 1\)"),
    ],
)
def test_refuses_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        small_resnet20(**arguments)


LOAD_ELSEWHERE = """
import json, sys
import keras, numpy
model = keras.models.load_model("network.keras", safe_mode=True)
images = numpy.load("images.npy")
outputs = [output.tolist() for output in model.predict(images, verbose=0)]
imported = [name for name in sys.modules if name.split(".")[0] == "parl_tf"]
print(json.dumps({"outputs": outputs, "imported": imported}))
"""


@pytest.mark.slow
def test_a_saved_network_needs_nothing_of_this_package(tmp_path):
    model = small_resnet20(normalization="cifar10", num_exposed=2)
    model.save(tmp_path / "network.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    process = subprocess.run(
        [sys.executable, "-c", LOAD_ELSEWHERE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["imported"] == []
    for found, expected in zip(result["outputs"], model(IMAGES), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "convolutions"), [("resnet8", 7), ("resnet8-shortcut-batch-norm", 7), ("resnet20", 19)]
)
def test_depth_of_the_networks(name, convolutions):
    network = NETWORKS[name](10, seed=0)
    assert count_convolutions(network) == convolutions


def test_refuses_stages_without_blocks():
    with pytest.raises(InputError, match="blocks of at least 1"):
        resnet20(10, blocks=0)


def test_all_weights_are_penalised_and_saved_with_their_penalty(tmp_path):
    model = NETWORKS["resnet8-shortcut-batch-norm"](10, input_shape=SMALL, seed=0)
    draw = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(draw.normal(size=weight.shape))
    penalize_all_weights(model, 5e-5)
    expected = 5e-5 * sum(np.sum(np.square(w.numpy())) for w in model.trainable_variables)
    assert len(model.losses) == len(model.trainable_variables) == 9 + 2 * 9 + 2
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    model.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    assert float(sum(loaded.losses)) == pytest.approx(expected, rel=1e-5)
    # The gradient is what a weight decay of 1e-4 adds.
    with tf.GradientTape() as tape:
        total = tf.add_n(loaded.losses)
    for weight, gradient in zip(
        loaded.trainable_variables,
        tape.gradient(total, [w.value for w in loaded.trainable_variables]),
        strict=True,
    ):
        np.testing.assert_allclose(gradient, 1e-4 * weight.numpy(), rtol=1e-5)
    penalize_all_weights(model, 0.0)
    assert not model.losses


def test_weights_inside_of_a_nested_network_are_penalised_too():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2)])
    penalize_all_weights(model, 1.0)
    assert len(model.losses) == 4


def test_a_weight_that_takes_no_penalty_is_named():
    model = keras.Sequential([keras.Input((4,)), keras.layers.PReLU(name="curved")])
    with pytest.raises(InputError, match="penalized='convolutions'. Received: .*curved/alpha"):
        penalize_all_weights(model, 1.0)
    with pytest.raises(InputError, match="penalty of at least 0"):
        penalize_all_weights(model, -1.0)
