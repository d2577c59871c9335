import itertools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from parl_tf.data import PIXEL_STATISTICS
from parl_tf.errors import InputError
from parl_tf.exposure import count_convolutions, expose_layers, layer_outputs
from parl_tf.models import NETWORKS
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


VARIANTS = {
    "resnet20": {},
    "resnet20-leaky-relu": {"activation": "leaky_relu"},
    "resnet20-shortcut-batch-norm": {"convolution_bias": False, "shortcut_batch_norm": True},
    "resnet20-bare-stem": {"stem_batch_norm": False},
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
