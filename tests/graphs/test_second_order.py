"""Networks run with substitutes against the same networks as Keras runs them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.nesting import nested_network
from harness.networks import IMAGE_SHAPE, examples, plain_network, residual_network

from parl_tf.graphs.nodes import nodes_behind
from parl_tf.graphs.second_order import DifferentiableNetwork, differentiable
from parl_tf.graphs.substitutes import substitute

layers = keras.layers


def odd_network(seed):
    """Shared layers, losses of activities, draws, and all that is substituted."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input(IMAGE_SHAPE)
    shared = layers.Conv2D(3, 3, padding="same", activation="relu", activity_regularizer="l2")
    x = shared(shared(pixels))
    x = layers.BatchNormalization(activity_regularizer="l1", beta_initializer="ones")(x)
    x = layers.Dropout(0.5, seed=3)(layers.Activation("softsign")(x))
    x = layers.BatchNormalization(axis=1)(layers.Conv2D(6, 3)(x))
    x = layers.LeakyReLU()(layers.GroupNormalization(3)(x))
    x = layers.ReLU(negative_slope=0.3)(layers.LayerNormalization()(x))
    x = layers.Resizing(5, 4)(layers.UpSampling2D(interpolation="bilinear")(x))
    x = keras.ops.relu(x - keras.ops.moments(x, [1, 2], keepdims=True)[1])
    x = keras.ops.leaky_relu(keras.ops.layer_normalization(x))
    x = keras.ops.softsign(keras.activations.relu(x, negative_slope=0.2))
    x = keras.ops.image.resize(x, (7, 7))
    return keras.Model(pixels, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def frozen_network(seed):
    network = residual_network(seed)
    for layer in network.layers[:4]:
        layer.trainable = False
    return network


NETWORKS = {
    "residual": residual_network,
    "sequential": plain_network,
    "nested": nested_network,
    "nested, called in inference mode": lambda seed: nested_network(seed, training=False),
    "frozen": frozen_network,
    "odd": odd_network,
}


def run_once(network, call, training):
    """What a call gives, its losses, first derivatives and the states behind it."""
    images = tf.constant(examples(6)[0])
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = call(images, training=training)
        value = tf.reduce_sum(tf.sin(logits)) + sum(network.losses)
    sources = [images, *(weight.value for weight in network.trainable_weights)]
    gradients = tape.gradient(value, sources, unconnected_gradients="zero")
    states = [variable.numpy() for variable in network.variables]
    return [logits, *network.losses, *gradients, *states]


@pytest.mark.parametrize("training", [True, False, None])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_losses_first_derivatives_and_states_stay_those_of_keras(name, training):
    own, other = (NETWORKS[name](1) for _ in range(2))
    expected = run_once(own, own, training)
    found = run_once(other, DifferentiableNetwork(other), training)
    assert len(found) == len(expected)
    for one, keras_s in zip(found, expected, strict=True):
        scale = max(1, np.abs(keras_s).max())
        np.testing.assert_allclose(one, keras_s, rtol=1e-4, atol=2e-5 * scale)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_types_stay_those_of_keras(policy):
    keras.config.set_dtype_policy(policy)
    try:
        network = odd_network(0)
    finally:
        keras.config.set_dtype_policy("float32")
    images = tf.constant(examples(6)[0])
    values = DifferentiableNetwork(network, [layer.output for layer in network.layers[1:]])(images)
    own = keras.Model(network.inputs, [layer.output for layer in network.layers[1:]])(images)
    for layer, one, other in zip(network.layers[1:], values, own, strict=True):
        assert one.dtype == other.dtype, layer.name
        np.testing.assert_allclose(
            tf.cast(one, "float64"), tf.cast(other, "float64"), rtol=0.05, atol=0.1
        )


def test_masks_reach_what_is_behind_a_substitute():
    keras.utils.set_random_seed(0)
    pixels = keras.Input(IMAGE_SHAPE)
    x = layers.Masking()(layers.Reshape((64, 3))(pixels))
    x = layers.ReLU()(layers.LayerNormalization()(layers.BatchNormalization()(x)))
    network = keras.Model(pixels, layers.GlobalAveragePooling1D()(x))
    images = tf.cast(tf.random.stateless_uniform((4, *IMAGE_SHAPE), (0, 1)) > 0.5, "float32")
    for training in (True, False):
        np.testing.assert_allclose(
            DifferentiableNetwork(network)(images, training=training),
            network(images, training=training),
            atol=1e-5,
        )


def test_what_has_a_substitute_and_what_has_none():
    class Own(layers.BatchNormalization):
        pass

    def has_substitute(layer):
        layer.build((None, *IMAGE_SHAPE))
        return substitute(layer) is not layer

    assert all(
        map(has_substitute, (layers.BatchNormalization(), layers.Conv2D(2, 1, activation="relu")))
    )
    assert not any(
        map(has_substitute, (Own(), layers.Conv2D(2, 1, activation="gelu"), layers.ELU()))
    )
    network = odd_network(0)
    kept = {
        type(node.operation).__name__
        for node in nodes_behind(network.outputs).values()
        if substitute(node.operation) is node.operation
    }
    assert kept == {
        "InputLayer",
        "Dropout",
        "Conv2D",
        "Subtract",
        "GlobalAveragePooling2D",
        "Dense",
    }


@pytest.mark.parametrize("options", [{}, {"synchronized": True}])
def test_a_layer_shares_all_with_its_substitute(options):
    layer = layers.BatchNormalization(activity_regularizer="l2", momentum=0.5, **options)
    layer.build((None, *IMAGE_SHAPE))
    images = tf.constant(examples(6)[0])
    before = dict(vars(layer))
    substitute(layer)(images, training=True)
    assert vars(layer) == before
    assert len(layer.losses) == 1
    np.testing.assert_allclose(
        layer.moving_mean, 0.5 * tf.reduce_mean(images, [0, 1, 2]), rtol=1e-5
    )
    layer.trainable = False
    np.testing.assert_allclose(substitute(layer)(images, training=True), layer(images), rtol=1e-6)


def test_normalisation_by_batch_becomes_two_fused_operations():
    network = DifferentiableNetwork(residual_network(0))

    @tf.function
    def forward(images):
        return network(images, training=True)

    graph = forward.get_concrete_function(tf.TensorSpec((6, 8, 8, 3))).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert kinds.count("FusedBatchNormV3") == 6  # for three layers, moments included
    assert "Square" not in kinds


def test_neither_libraries_nor_layers_are_changed():
    network = odd_network(0)
    modules = (tf.nn, tf.image, keras.ops, keras.activations, keras.layers)
    objects = [*modules, *(layer for layer in network.layers)]
    before = [{**vars(each)} for each in objects]
    DifferentiableNetwork(network)(tf.constant(examples(6)[0]), training=True)
    for each, own in zip(objects, before, strict=True):
        assert vars(each) == own


def second_derivative(network, images, direction):
    """Derivative along a direction of the squared length of the input gradient."""
    with tf.GradientTape() as outer:
        outer.watch(images)
        with tf.GradientTape() as inner:
            inner.watch(images)
            value = tf.reduce_sum(tf.square(network(images, training=True)))
        length = tf.reduce_sum(tf.square(inner.gradient(value, images)))
    return length, tf.reduce_sum(outer.gradient(length, images) * direction)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "normalization",
    [
        layers.BatchNormalization,
        layers.LayerNormalization,
        lambda: layers.GroupNormalization(groups=3),
        lambda: keras.ops.layer_normalization,
        lambda: lambda x: x / (1 + keras.ops.moments(x, [1, 2], keepdims=True)[1]),
    ],
)
def test_second_derivative_is_exact_only_with_substitutes(float64, normalization, nested, exact):
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 3))
    x = normalization()(layers.Conv2D(6, 3)(pixels))
    network = keras.Model(pixels, layers.Activation("tanh")(x))
    if nested:
        pixels = keras.Input((8, 8, 3))
        network = keras.Model(pixels, layers.Dense(2)(keras.Sequential([network])(pixels)))
    generator = np.random.default_rng(0)
    images, direction = (tf.constant(generator.uniform(size=(4, 8, 8, 3))) for _ in range(2))
    call = differentiable(network) if exact else network
    _, found = second_derivative(call, images, direction)
    lengths = [
        second_derivative(call, images + step * direction, direction)[0] for step in (1e-6, -1e-6)
    ]
    measured = float(lengths[0] - lengths[1]) / 2e-6
    # Were this to hold without, TensorFlow would have it right, and the substitutes could go.
    assert (float(found) == pytest.approx(measured, rel=1e-5)) == exact


def test_a_network_with_a_call_of_its_own_is_called_itself():
    class Doubled(keras.Model):
        def call(self, inputs, training=None):
            return 2 * super().call(inputs, training=training)

    plain = residual_network(0)
    doubled = Doubled(plain.inputs, plain.outputs)
    assert differentiable(doubled) is doubled
    assert differentiable(plain) is not plain
