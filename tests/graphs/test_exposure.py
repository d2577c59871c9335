import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import IMAGE_SHAPE, NUM_CLASSES, examples, plain_network, residual_network

from parl_tf.errors import InputError
from parl_tf.graphs.exposure import TAPS, distillation_outputs, expose_layers, layer_outputs
from parl_tf.models.resnet import resnet20

IMAGES = tf.constant(examples(3)[0])


def maker_of(tensor):
    """Name of the layer or operation that a symbolic tensor comes from."""
    return tensor._keras_history.operation.name


def numbered(name, numbers):
    """Names that Keras gives to layers by itself."""
    return [f"{name}_{number}" if number else name for number in numbers]


def head(x):
    return keras.layers.Dense(NUM_CLASSES, name="head")(keras.layers.Flatten()(x))


def network_with(*layers):
    """A network whose layers before the classification are given, each called by the next."""
    pixels = x = keras.Input(IMAGE_SHAPE)
    for layer in layers:
        x = layer(x)
    return keras.Model(pixels, head(x))


def convolution(**arguments):
    return keras.layers.Conv2D(3, 3, **arguments)


def batch_norms(network):
    kind = keras.layers.BatchNormalization
    return [layer for layer in network.layers if isinstance(layer, kind)]


@pytest.fixture(scope="module")
def resnet():
    keras.utils.clear_session()  # names begin at their first number
    return resnet20(10, input_shape=(16, 16, 3), seed=0)


# Every stage but the first begins with a block whose third convolution is its shortcut.
CONVOLUTIONS = numbered("conv2d", [n for n in range(21) if n not in (9, 16)])
ACTIVATIONS = numbered("re_lu", range(19))
NAMES = [("activation", ACTIVATIONS), ("convolution", CONVOLUTIONS)]


@pytest.mark.parametrize(("tap", "names"), NAMES)
def test_resnet20_has_nineteen_outputs_in_order_and_none_on_shortcuts(resnet, tap, names):
    outputs = layer_outputs(resnet, 19, tap=tap)
    assert [maker_of(output) for output in outputs] == names
    sizes = [(16, 16)] * 7 + [(8, 32)] * 6 + [(4, 64)] * 6
    assert [output.shape for output in outputs] == [(None, s, s, f) for s, f in sizes]
    skipped = [resnet.get_layer(name) for name in ("conv2d_9", "conv2d_16")]
    assert [layer.kernel_size for layer in skipped] == [(1, 1), (1, 1)]


@pytest.mark.parametrize(("tap", "names"), NAMES)
def test_outputs_equal_those_of_a_sub_model(resnet, tap, names):
    images = tf.random.stateless_uniform((2, 16, 16, 3), seed=(0, 0))
    layers = [resnet.get_layer(name).output for name in names[:9]]
    expected = keras.Model(resnet.input, layers)(images)
    logits, *found = expose_layers(resnet, 9, tap=tap)(images)
    np.testing.assert_array_equal(logits, resnet(images))
    for output, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(output, other)


@pytest.mark.parametrize("training", [False, True])
def test_outputs_of_a_residual_block_equal_those_of_its_layers_called_by_hand(training):
    network = residual_network(0)
    layer = network.get_layer
    norms = batch_norms(network)
    stem = layer("stem")(IMAGES)
    x = tf.nn.relu(norms[0](stem, training=training))
    first = layer("first")(x)
    y = tf.nn.relu(norms[1](first, training=training))
    second = layer("second")(y)
    z = tf.nn.relu(norms[2](second, training=training) + layer("shortcut")(x))
    for tap, expected in (("activation", (x, y, z)), ("convolution", (stem, first, second))):
        _, *found = expose_layers(network, 3, tap=tap)(IMAGES, training=training)
        for output, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(output, other, atol=1e-5)


def test_activations_fused_into_layers_of_a_sequential_model():
    network = plain_network(0)
    first = network.layers[0](IMAGES)
    second = network.layers[1](first)
    logits, *found = expose_layers(network, 2)(IMAGES)
    np.testing.assert_array_equal(logits, network(IMAGES))
    np.testing.assert_array_equal(found[0], first)
    np.testing.assert_array_equal(found[1], second)


def test_activations_that_are_layers_of_a_sequential_model():
    layers = [
        convolution(),
        keras.layers.BatchNormalization(),
        keras.layers.LeakyReLU(name="leaky"),
        keras.layers.MaxPooling2D(),
        keras.layers.SeparableConv2D(4, 3),
        keras.layers.Dropout(0.5),
        keras.layers.Activation("tanh", name="tanh"),
        keras.layers.Flatten(),
        keras.layers.Dense(NUM_CLASSES),
    ]
    network = keras.Sequential([keras.Input(IMAGE_SHAPE), *layers])
    assert [maker_of(output) for output in layer_outputs(network, 2)] == ["leaky", "tanh"]
    raw = layer_outputs(network, 2, tap="convolution")
    assert [maker_of(output) for output in raw] == [layers[0].name, layers[4].name]


def test_a_sequential_model_that_was_built_by_a_call():
    network = keras.Sequential([convolution(activation="relu"), keras.layers.Flatten()])
    expected = network.layers[0](IMAGES)
    network(IMAGES)
    np.testing.assert_array_equal(expose_layers(network, 1)(IMAGES)[1], expected)


def operations_network(seed):
    """A block with a shortcut whose activations and addition are functions of keras.ops."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input(IMAGE_SHAPE)
    x = keras.ops.relu(convolution(name="first")(pixels))
    shortcut = convolution(name="shortcut", padding="same")(x)
    y = keras.ops.silu(convolution(name="second", padding="same")(x))
    y = convolution(name="third", padding="same")(y)
    return keras.Model(pixels, head(keras.ops.softplus(y + shortcut)))


def test_functions_of_keras_ops():
    network = operations_network(0)
    layer = network.get_layer
    first = tf.nn.relu(layer("first")(IMAGES))
    second = tf.nn.silu(layer("second")(first))
    third = tf.nn.softplus(layer("third")(second) + layer("shortcut")(first))
    _, *found = expose_layers(network, 3)(IMAGES)
    for output, other in zip(found, (first, second, third), strict=True):
        np.testing.assert_allclose(output, other, atol=1e-6)
    with pytest.raises(InputError, match="num_layers from 1 to 3"):
        expose_layers(network, 4)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu", "tanh", "softplus"])
def test_functions_of_keras_activations(name):
    pixels = keras.Input(IMAGE_SHAPE)
    x = getattr(keras.activations, name)(convolution(name="first")(pixels))
    network = keras.Model(pixels, head(x))
    expected = getattr(keras.activations, name)(network.get_layer("first")(IMAGES))
    np.testing.assert_allclose(expose_layers(network, 1)(IMAGES)[1], expected, atol=1e-6)


@pytest.mark.parametrize("make", [residual_network, plain_network, operations_network])
def test_a_saved_model_exposes_the_same(make, tmp_path):
    network = make(0)
    expected = expose_layers(network, 2)(IMAGES)
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    for output, other in zip(expose_layers(loaded, 2)(IMAGES), expected, strict=True):
        np.testing.assert_array_equal(output, other)


def test_an_exposed_model_can_be_saved(tmp_path):
    exposed = expose_layers(residual_network(0), 3)
    exposed.save(tmp_path / "exposed.keras")
    loaded = keras.models.load_model(tmp_path / "exposed.keras")
    for output, other in zip(loaded(IMAGES), exposed(IMAGES), strict=True):
        np.testing.assert_array_equal(output, other)


def test_layers_are_shared_and_logits_are_those_of_the_model():
    network = residual_network(0)
    exposed = expose_layers(network, 3)
    assert all(any(layer is other for other in network.layers) for layer in exposed.layers)
    assert exposed.count_params() == network.count_params()
    np.testing.assert_array_equal(exposed(IMAGES)[0], network(IMAGES))
    before = exposed(IMAGES)
    network.get_layer("stem").kernel.assign(-network.get_layer("stem").kernel)
    after = exposed(IMAGES)
    np.testing.assert_array_equal(after[0], network(IMAGES))
    for output, other in zip(after, before, strict=True):
        assert np.abs(output - other).max() > 1e-3


def test_an_exposed_model_takes_arrays_as_the_model_does():
    network, images = residual_network(0), np.array(IMAGES)
    np.testing.assert_array_equal(expose_layers(network, 1)(images)[0], network(images))


def test_a_layer_called_elsewhere_too_does_not_confuse():
    network = residual_network(0)
    expected = network(IMAGES)
    network(keras.Input(IMAGE_SHAPE))
    outer = network.get_layer("first")
    outer(keras.Input((8, 8, 4)))
    exposed = expose_layers(network, 3)
    np.testing.assert_array_equal(exposed(IMAGES)[0], expected)


def test_of_a_convolution_called_twice_each_call_counts():
    shared = convolution(padding="same", name="shared")
    activations = [keras.layers.ReLU(name=name) for name in ("first", "second")]
    network = network_with(shared, activations[0], shared, activations[1])
    assert [maker_of(output) for output in layer_outputs(network, 2)] == ["first", "second"]


def test_the_input_gradient_of_a_normalised_output_is_zero_and_of_the_exposed_ones_is_not():
    network = residual_network(0)
    activation, raw = (layer_outputs(network, 1, tap=tap)[0] for tap in TAPS)
    model = keras.Model(network.inputs, [batch_norms(network)[0].output, activation, raw])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(IMAGES)
        outputs = model(IMAGES, training=True)
    normalised, activated, convolved = (
        np.abs(tape.gradient(output, IMAGES)).max() for output in outputs
    )
    assert normalised < 1e-4 * min(activated, convolved)
    assert min(activated, convolved) > 0.01


@pytest.mark.parametrize("tap", ["batch_norm", "batch_normalization", "normalization"])
def test_refuses_the_output_of_batch_norm(tap):
    with pytest.raises(InputError, match=f"zero input gradient.*activation.*Received: '{tap}'"):
        expose_layers(residual_network(0), 1, tap=tap)


def test_refuses_an_unknown_tap():
    with pytest.raises(InputError, match="Unknown tap. Did you mean activation.*'activations'"):
        expose_layers(residual_network(0), 1, tap="activations")


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [keras.layers.BatchNormalization()],
        [keras.layers.BatchNormalization(), convolution(activation="relu")],
        [keras.layers.Activation("linear")],
        [keras.layers.Activation("softmax")],
        [keras.layers.Softmax()],
        [keras.ops.softmax],
        [keras.layers.Flatten(), keras.layers.Dense(5, activation="relu")],
    ],
)
def test_refuses_a_convolution_that_no_activation_follows(layers):
    network = network_with(convolution(name="bare"), *layers)
    with pytest.raises(InputError, match="No activation follows convolution 'bare'"):
        expose_layers(network, 1)
    assert maker_of(layer_outputs(network, 1, tap="convolution")[0]) == "bare"


def test_only_the_convolutions_asked_for_need_an_activation():
    network = network_with(convolution(activation="relu", name="first"), convolution())
    assert maker_of(layer_outputs(network, 1)[0]) == "first"
    with pytest.raises(InputError, match="No activation follows"):
        expose_layers(network, 2)


@pytest.mark.parametrize("tap", TAPS)
def test_refuses_a_softmax_fused_into_the_convolution(tap):
    network = network_with(convolution(activation="softmax", name="fused"))
    with pytest.raises(InputError, match="'fused'"):
        expose_layers(network, 1, tap=tap)


def test_refuses_the_raw_output_of_a_fused_activation():
    with pytest.raises(InputError, match="applies its activation itself.*tap='activation'"):
        expose_layers(plain_network(0), 1, tap="convolution")


@pytest.mark.parametrize("num_layers", [-1, 0, 4])
def test_refuses_more_convolutions_than_there_are_and_fewer_than_one(num_layers):
    with pytest.raises(InputError, match=f"num_layers from 1 to 3.*Received: {num_layers}"):
        expose_layers(residual_network(0), num_layers)


def test_refuses_two_inputs_and_two_outputs():
    first, second = keras.Input(IMAGE_SHAPE), keras.Input(IMAGE_SHAPE)
    x = keras.layers.ReLU()(convolution()(keras.layers.Add()([first, second])))
    with pytest.raises(InputError, match="one input and one output. Received: 2 inputs and 1 out"):
        expose_layers(keras.Model([first, second], head(x)), 1)
    network = residual_network(0)
    with pytest.raises(InputError, match="Received: 1 inputs and 2 outputs"):
        expose_layers(expose_layers(network, 1), 1)


class Subclassed(keras.Model):
    """A model without a graph."""

    def __init__(self):
        super().__init__()
        self.convolution = convolution(activation="relu")

    def call(self, inputs):
        return self.convolution(inputs)


@pytest.mark.parametrize("take", [expose_layers, layer_outputs])
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.Sequential([convolution(activation="relu")]),
        Subclassed,
        lambda: tf.nn.relu,
        lambda: None,
    ],
    ids=["unbuilt", "subclassed", "function", "none"],
)
def test_refuses_what_has_no_graph(make, take):
    with pytest.raises(InputError, match="functional Keras model, or a sequential one that is bu"):
        take(make(), 1)


def test_distillation_outputs_of_resnet20_are_what_its_activations_are_applied_to(resnet):
    outputs = distillation_outputs(resnet)
    assert len(outputs) == 20
    kinds = [type(tensor._keras_history.operation).__name__ for tensor in outputs]
    # The stem and each block's first convolution are normalised, each second one also added.
    assert kinds == ["BatchNormalization", *["BatchNormalization", "Add"] * 9, "Dense"]
    activations = layer_outputs(resnet, 19)
    for before, after in zip(outputs, activations, strict=False):
        assert after._keras_history.operation._inbound_nodes[0].input_tensors[0] is before


def test_distillation_outputs_without_activations_to_come_before():
    fused = plain_network(0)
    first, second, logits = distillation_outputs(fused)
    assert first is fused.layers[0].output
    assert second is fused.layers[1].output
    assert logits is fused.outputs[0]
    bare = network_with(convolution(name="bare"))
    assert [maker_of(tensor) for tensor in distillation_outputs(bare)] == ["bare", "head"]


def test_the_nearest_activation_counts_where_a_shortcut_goes_further():
    pixels = keras.Input(IMAGE_SHAPE)
    x = keras.layers.Conv2D(3, 3, padding="same")(pixels)
    y = keras.layers.ReLU(name="near")(keras.layers.BatchNormalization()(x))
    y = keras.layers.Conv2D(3, 3, padding="same")(y)
    z = keras.layers.ReLU(name="far")(keras.layers.Add()([x, y]))
    network = keras.Model(pixels, head(z))
    assert [maker_of(tensor) for tensor in layer_outputs(network, 2)] == ["near", "far"]
