import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import examples, residual_network

from parl_tf.graphs.second_order import differentiable_twice


def test_values_and_moving_statistics_stay_those_of_keras():
    images, _ = examples(6)
    results = []
    for exact in (False, True):
        network = residual_network(0)
        if exact:
            with differentiable_twice():
                logits = network(images, training=True)
        else:
            logits = network(images, training=True)
        results.append([logits, *network.get_weights()])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", [[0, 2], 1, -1, (0, 1, 2)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_moments_are_those_of_tensorflow(dtype, axes, keepdims):
    values = tf.cast(np.random.default_rng(0).normal(1, 2, (3, 4, 5, 2)), dtype)
    expected = tf.nn.moments(values, axes, keepdims=keepdims)
    with differentiable_twice():
        found = tf.nn.moments(values, axes, keepdims=keepdims)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(tf.cast(one, "float64"), tf.cast(other, "float64"), rtol=1e-2)


@pytest.mark.parametrize(
    ("offset", "scale"),
    [
        (None, None),
        (0.5, 2.0),
        (np.full((1, 1, 1, 3), 0.5), np.full((1, 1, 1, 3), 2.0)),
        (None, np.arange(1.0, 5.0).reshape(4, 1, 1, 1)),
    ],
)
@pytest.mark.parametrize("keepdims", [False, True])
def test_normalisation_takes_what_broadcasts(offset, scale, keepdims):
    values = tf.random.stateless_normal((4, 2, 2, 3), (0, 1))
    offset, scale = (
        each if each is None else tf.constant(each, "float32") for each in (offset, scale)
    )

    def normalized():
        moments = tf.nn.moments(values, [0, 1, 2], keepdims=keepdims)
        return tf.nn.batch_normalization(values, *moments, offset, scale, 1e-3)

    expected = normalized()
    with differentiable_twice():
        np.testing.assert_allclose(normalized(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_rectifiers_take_what_tensorflow_s_take(dtype):
    values = tf.constant([-3, 0, 2], dtype)

    def rectified():
        return [tf.nn.relu(values), tf.nn.leaky_relu(values), tf.nn.leaky_relu(values, 0.1)]

    expected = rectified()
    with differentiable_twice():
        for one, other in zip(rectified(), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_keras_normalisation_by_batch_becomes_two_operations():
    network = residual_network(0)

    @tf.function
    def forward(images):
        with differentiable_twice():
            return network(images, training=True)

    graph = forward.get_concrete_function(tf.TensorSpec((6, 8, 8, 3))).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert kinds.count("FusedBatchNormV3") == 6  # for three layers, moments included
    assert "Square" not in kinds


def fail_within():
    with differentiable_twice():
        raise ZeroDivisionError


def test_tensorflow_is_left_as_it_was_even_after_an_error():
    before = dict(vars(tf.nn))
    with differentiable_twice():
        assert vars(tf.nn) != before
    with pytest.raises(ZeroDivisionError):
        fail_within()
    assert vars(tf.nn) == before


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
@pytest.mark.parametrize(
    "normalization",
    [
        keras.layers.BatchNormalization,
        keras.layers.LayerNormalization,
        lambda: keras.layers.GroupNormalization(groups=3),
    ],
)
def test_second_derivative_is_exact_only_meanwhile(float64, normalization, exact):
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 3))
    x = normalization()(keras.layers.Conv2D(6, 3)(pixels))
    network = keras.Model(pixels, keras.layers.Activation("tanh")(x))
    generator = np.random.default_rng(0)
    images, direction = (tf.constant(generator.uniform(size=(4, 8, 8, 3))) for _ in range(2))

    def measure():
        _, found = second_derivative(network, images, direction)
        lengths = [
            second_derivative(network, images + step * direction, direction)[0]
            for step in (1e-6, -1e-6)
        ]
        return float(found), float(lengths[0] - lengths[1]) / 2e-6

    if exact:
        with differentiable_twice():
            found, measured = measure()
    else:
        found, measured = measure()
    # Were this to hold without, TensorFlow would have it right, and the module could go.
    assert (found == pytest.approx(measured, rel=1e-5)) == exact


def test_moments_are_computed_once_whatever_the_epsilon():
    """They are taken before the epsilon is known, and the last one seen is expected."""
    x = pixels = keras.Input((8, 8, 3))
    for _ in range(3):
        x = keras.layers.BatchNormalization(epsilon=1.001e-5)(keras.layers.Conv2D(4, 3)(x))
    network = keras.Model(pixels, x)

    def fused():
        with differentiable_twice():
            traced = tf.function(lambda images: network(images, training=True))
            graph = traced.get_concrete_function(tf.zeros((2, 8, 8, 3))).graph
        nodes = [node for node in graph.as_graph_def().node if node.op == "FusedBatchNormV3"]
        return sum(node.attr["is_training"].b for node in nodes)

    assert fused() <= 4
    assert fused() == 3
