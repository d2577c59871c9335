"""Folded networks against their layers, called one by one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import IMAGE_SHAPE, examples, plain_network, residual_network

import parl_tf
from parl_tf.graphs.exposure import layer_outputs
from parl_tf.graphs.folding import FoldedNetwork, folded_if_possible
from parl_tf.graphs.layer_sums import LayerSums
from parl_tf.graphs.second_order import DifferentiableNetwork
from parl_tf.tensors import summed_gradients


class Flipped(keras.layers.Layer):
    """A layer that does not take `training`, around one that draws unless it is told not to."""

    def __init__(self):
        super().__init__()
        self.flip = keras.layers.RandomFlip(seed=0)

    def call(self, inputs):
        return self.flip(inputs)


def odd_network():
    """What may stand between convolutions: layers that draw, other normalisations, no bias."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = pixels = keras.Input(IMAGE_SHAPE)
    x = Flipped()(layers.Normalization(mean=0.5, variance=0.1)(x))
    x = layers.Conv2D(4, 3, strides=2, use_bias=False)(x)
    x = layers.BatchNormalization(scale=False, center=False)(x)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.Dropout(0.5)(x)
    x = layers.Conv2D(6, 2, dilation_rate=2, padding="same", groups=2)(x)
    x = layers.LayerNormalization()(x)
    x = layers.ReLU(max_value=6)(x)
    x = layers.DepthwiseConv2D(2)(x)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.Activation("softplus")(x)
    y = layers.Conv2D(6, 1)(x)
    x = layers.BatchNormalization()(y)
    x = keras.ops.relu(layers.Concatenate()([x, y]))  # the raw output is read twice
    network = keras.Model(pixels, layers.Dense(4)(layers.Flatten()(x)))
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            draw = np.random.default_rng(layer.weights[0].shape[0])
            layer.set_weights([draw.uniform(0.5, 1.5, w.shape) for w in layer.weights])
    return network


def keyword_network():
    """Layers called with `inputs=`."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = pixels = keras.Input(IMAGE_SHAPE)
    for layer in (layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()):
        x = layer(inputs=x)
    return keras.Model(pixels, layers.Dense(4)(layers.Flatten()(x)))


def causal_network():
    """One-dimensional convolutions; the padding of the first is the layer's own affair."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = pixels = keras.Input(IMAGE_SHAPE)
    x = layers.Reshape((64, 3))(x)
    for padding in ("causal", "same"):
        x = layers.Conv1D(4, 3, padding=padding)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(pixels, layers.Dense(4)(layers.Flatten()(x)))


NETWORKS = {
    "residual": (lambda: residual_network(1), 3),
    "leaky residual": (lambda: residual_network(1, activation="leaky_relu"), 3),
    "activations in the convolutions": (lambda: plain_network(1), 2),
    "wide": (lambda: parl_tf.wide_resnet(4, input_shape=IMAGE_SHAPE, depth=10, width=1), 6),
    "odd": (odd_network, 4),
    "by keyword": (keyword_network, 1),
    "causal": (causal_network, 2),
}
CASES = [
    (name, tap)
    for name in NETWORKS
    for tap in ("activation", "convolution")
    if (name, tap) != ("activations in the convolutions", "convolution")
]


@pytest.mark.parametrize(("name", "tap"), CASES)
def test_gradients_and_their_derivatives_are_those_of_the_layers(float64, name, tap):
    make, num_layers = NETWORKS[name]
    network = make()
    images = tf.constant(examples(5)[0], "float64")
    plain = DifferentiableNetwork(network, layer_outputs(network, num_layers, tap=tap))
    sums = LayerSums(network, num_layers, tap=tap)
    first = FoldedNetwork(network, sums.sources)

    def measured(layers_of):
        with tf.GradientTape() as outer:
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(images)
                layers = layers_of(images)
            gradients = summed_gradients(inner, layers, images)
            loss = tf.add_n([tf.reduce_sum(tf.sin(3 * gradient)) for gradient in gradients])
        weights = [w.value for w in network.trainable_weights]
        return layers, gradients, outer.gradient(loss, weights, unconnected_gradients="zero")

    layers, gradients, derivatives = measured(
        lambda x: keras.tree.flatten(plain(x, training=False))
    )
    found_layers, found_gradients, found_derivatives = measured(lambda x: sums(first(x)))
    if tap == "activation":
        for one, other in zip(found_layers, layers, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-10)
    for one, other in zip(found_gradients, gradients, strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(one, other, atol=1e-10)
    assert any(np.abs(derivative).max() > 0 for derivative in derivatives)
    for one, other in zip(found_derivatives, derivatives, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize(
    ("convolution", "norm"),
    [
        ("bfloat16", "float32"),
        ("float32", "float64"),
        ("mixed_float16", "mixed_float16"),
        ("mixed_bfloat16", "mixed_bfloat16"),
        ("bfloat16", "bfloat16"),
    ],
)
def test_dtypes_are_reconciled_as_keras_does(convolution, norm):
    keras.utils.set_random_seed(0)
    pixels = keras.Input(IMAGE_SHAPE)
    x = keras.layers.Conv2D(4, 3, dtype=convolution)(pixels)
    x = keras.layers.BatchNormalization(dtype=norm)(x)
    network = keras.Model(pixels, x)
    values = [[0.5, 1, 2, 3], [1, 2, 3, 4], [0.1, 0.2, 0, 0], [1, 2, 3, 4]]
    network.layers[-1].set_weights(np.array(values, "float32"))
    images = tf.constant(examples(5)[0])
    (found,) = FoldedNetwork(network, [x])(images)
    expected = network(images)
    assert found.dtype == expected.dtype
    tolerance = 1e-5 if convolution == "float32" else 0.05
    np.testing.assert_allclose(
        tf.cast(found, "float64"), tf.cast(expected, "float64"), atol=tolerance
    )


def test_normalisation_becomes_part_of_the_kernels():
    network = residual_network(0)
    first = FoldedNetwork(network, layer_outputs(network, 3))
    forward = tf.function(lambda images: first(images))
    graph = forward.get_concrete_function(tf.TensorSpec((6, *IMAGE_SHAPE))).graph
    whole = [o for o in graph.get_operations() if o.outputs and o.outputs[0].shape.rank == 4]
    kinds = [o.type for o in whole if o.outputs[0].shape[0] == 6]
    assert "Conv2D" in kinds
    assert not {"Mul", "Sub", "RealDiv"} & set(kinds)


def test_it_neither_moves_statistics_nor_draws():
    network = odd_network()
    first = FoldedNetwork(network, layer_outputs(network, 4))
    images, _ = examples(5)
    before = network.get_weights()
    results = [first(tf.constant(images)) for _ in range(2)]
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_needed_and_no_more_is_convolved():
    """K layers, raw: K - 1 convolutions, none of them on the way back the compared one's own."""
    network = parl_tf.resnet20(4, input_shape=IMAGE_SHAPE)
    sums = LayerSums(network, 4, tap="convolution")
    first = FoldedNetwork(network, sums.sources)

    @tf.function
    def derivatives(images):
        with tf.GradientTape() as outer:
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(images)
                layers = sums(first(images))
            gradients = summed_gradients(inner, layers, images)
            loss = tf.add_n([tf.reduce_sum(tf.sin(gradient)) for gradient in gradients])
        weights = [w.value for w in network.trainable_weights]
        return outer.gradient(loss, weights, unconnected_gradients="zero")

    graph = derivatives.get_concrete_function(tf.TensorSpec((6, *IMAGE_SHAPE))).graph
    needed, queue = set(), [tensor.op for tensor in graph.structured_outputs]
    while queue:
        operation = queue.pop()
        if operation.name not in needed:
            needed.add(operation.name)
            queue += [tensor.op for tensor in operation.inputs]
    batches = [
        operation.type
        for operation in graph.get_operations()
        if operation.name in needed
        and "Conv2D" in operation.type
        and 6 in [*operation.outputs[0].shape[:1], *operation.inputs[-1].shape[:1]]
    ]
    assert batches.count("Conv2DBackpropInput") == 1 + 2 + 3
    assert batches.count("Conv2DBackpropFilter") == 1 + 2 + 3


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_network_answers_as_its_layers_do(float64, name):
    network = NETWORKS[name][0]()
    images = tf.constant(examples(5)[0], "float64")
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(images)
        expected = network(images, training=False)
        found = folded_if_possible(network)(images)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    slope = tape.gradient(expected, images)
    assert np.abs(slope).max() > 0
    np.testing.assert_allclose(tape.gradient(found, images), slope, atol=1e-10)


class Doubled(keras.Model):
    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training)


class DoubledOutside(keras.Model):
    def __call__(self, *arguments, **options):
        return 2 * super().__call__(*arguments, **options)


def doubled_on_the_instance(inputs, outputs):
    model = keras.Model(inputs, outputs)
    plain = model.call
    model.call = lambda inputs, **options: 2 * plain(inputs, **options)
    return model


@pytest.mark.parametrize("make", [Doubled, DoubledOutside, doubled_on_the_instance])
def test_a_network_with_a_call_of_its_own_is_asked_itself(make):
    network = residual_network(0)
    images = tf.constant(examples(5)[0])
    doubled = folded_if_possible(make(network.inputs, network.outputs))
    np.testing.assert_allclose(doubled(images), 2 * network(images), rtol=1e-5)


def sequential_network():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    some = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten()]
    return keras.Sequential([keras.Input(IMAGE_SHAPE), *some, layers.Dense(4)])


@pytest.mark.parametrize("make", [lambda: residual_network(0), sequential_network])
def test_loops_share_folded_weights(make):
    network = make()

    @tf.function
    def moved(images):
        answer = folded_if_possible(network)
        for _ in tf.range(3):
            images += tf.reduce_mean(answer(images))
        return images

    graph = moved.get_concrete_function(tf.TensorSpec((6, *IMAGE_SHAPE))).graph.as_graph_def()
    inside = {node.op for function in graph.library.function for node in function.node_def}
    assert "Conv2D" in inside
    assert "Rsqrt" not in inside
    assert "Rsqrt" in {node.op for node in graph.node}
