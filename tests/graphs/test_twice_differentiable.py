"""Gradients of gradients in float32 against TensorFlow's own of plain operations in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from parl_tf.graphs.second_order import DifferentiableNetwork
from parl_tf.graphs.twice_differentiable import BatchMoments, batch_normalized, rectified

EPSILON = 1e-3


def plain(x, scale, offset):
    mean = tf.reduce_mean(x, [0, 1, 2])
    variance = tf.reduce_mean(tf.square(x - mean), [0, 1, 2])
    return (x - mean) / tf.sqrt(variance + EPSILON) * scale + offset


def derivatives(normalize, dtype, second):
    """First derivatives of a function of a normalisation, or those of its input gradient."""
    draw = np.random.default_rng(0)
    x = tf.constant(draw.normal(0.3, 2, (5, 4, 3, 6)), dtype)
    scale, offset, factors = (tf.constant(draw.normal(size=6), dtype) for _ in range(3))
    weights = tf.constant(draw.normal(size=x.shape), dtype)
    with tf.GradientTape() as outer:
        outer.watch([x, scale, offset, weights])
        with tf.GradientTape() as inner:
            inner.watch([x, scale, offset])
            value = tf.reduce_sum(tf.tanh(normalize(x, scale, offset) + factors) * weights)
        gradients = inner.gradient(value, [x, scale, offset])
        length = tf.reduce_sum(tf.square(gradients[0]) * tf.cos(weights))
    if not second:
        return gradients
    return outer.gradient(length, [x, scale, offset, weights])


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_batch_normalized_has_the_derivatives_of_plain_operations_in_float64(second, how):
    def found():
        return derivatives(
            lambda x, *given: batch_normalized(BatchMoments(x, EPSILON), *given), "float32", second
        )

    expected = derivatives(plain, "float64", second)
    ran = found() if how == "eager" else tf.function(found, jit_compile=how == "xla")()
    for one, other in zip(ran, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_batch_moments_have_the_second_derivatives_of_plain_operations_in_float64(how):
    values, directions = np.random.default_rng(0).normal(0.3, 2, (2, 5, 4, 3, 6))

    def derivatives(moments, dtype):
        x = tf.constant(values, dtype)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                mean, variance = moments(x)
                value = tf.reduce_sum(tf.sin(mean) * variance**2)
            first = inner.gradient(value, x)
            along = tf.reduce_sum(tf.square(first) * tf.constant(directions, dtype))
        return mean, variance, first, outer.gradient(along, x)

    def plain(x):
        mean = tf.reduce_mean(x, [0, 1, 2])
        return mean, tf.reduce_mean(tf.square(x - mean), [0, 1, 2])

    def found():
        def fused(x):
            moments = BatchMoments(x, EPSILON)
            return moments.mean, moments.variance

        return derivatives(fused, "float32")

    ran = found() if how == "eager" else tf.function(found, jit_compile=how == "xla")()
    for one, other in zip(ran, derivatives(plain, "float64"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())


def test_moments_of_a_single_value_a_channel_are_finite():
    x = tf.constant([[[[3.0, -2.0]]]])
    moments = BatchMoments(x, EPSILON)
    np.testing.assert_array_equal(moments.mean, [3, -2])
    np.testing.assert_array_equal(moments.variance, [0, 0])
    normed = batch_normalized(moments, tf.ones(2), tf.constant([0.5, 1]))
    np.testing.assert_array_equal(normed, [[[[0.5, 1]]]])


def test_the_gradient_of_a_scale_is_not_differentiated_wrongly_but_not_at_all():
    x, scale, offset = tf.random.stateless_normal((2, 2, 2, 3), (0, 0)), tf.ones(3), tf.zeros(3)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(scale)
            value = tf.reduce_sum(
                tf.square(batch_normalized(BatchMoments(x, EPSILON), scale, offset))
            )
        found = inner.gradient(value, scale)
    with pytest.raises(LookupError, match="derivative of batch normalisation"):
        outer.gradient(found, x)


def test_second_derivatives_are_not_differentiated_wrongly_but_not_at_all():
    x, weights = tf.random.stateless_normal((2, 2, 2, 2, 3), (0, 0))
    with tf.GradientTape() as third:
        third.watch(x)
        with tf.GradientTape() as second:
            second.watch(x)
            with tf.GradientTape() as first:
                first.watch(x)
                normed = batch_normalized(BatchMoments(x, EPSILON), tf.ones(3), tf.zeros(3))
                value = tf.reduce_sum(tf.sin(normed) * weights)
            bent = tf.sin(first.gradient(value, x))
        found = second.gradient(bent, x)
    with pytest.raises(LookupError, match="derivative of batch normalisation"):
        third.gradient(found, x)


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_rectified_has_the_derivatives_of_relu_and_none_where_tensorflow_has_zeros(slope):
    x = tf.random.stateless_normal((40,), (1, 2))
    np.testing.assert_array_equal(rectified(x, slope), tf.nn.leaky_relu(x, slope))

    @tf.function
    def derivatives(power):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = tf.reduce_sum(rectified(x, slope) ** power)
            first = inner.gradient(value, x)
        return first, outer.gradient(first, x)

    slopes = tf.where(x > 0, 1.0, slope)
    first, second = derivatives(3)
    np.testing.assert_allclose(first, 3 * slopes**3 * x**2, rtol=1e-5)
    np.testing.assert_allclose(second, 6 * slopes**3 * x, rtol=1e-5)
    with tf.Graph().as_default():
        x = tf.zeros(40)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = tf.reduce_sum(rectified(x, slope))
            first = inner.gradient(value, x)
        assert outer.gradient(first, x) is None


@pytest.mark.parametrize("epsilon", [1e-3, 1e-2, 1e-6])  # the usual one, another, one too small
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_a_whole_network_in_float32_as_by_plain_operations_in_float64(activation, epsilon):
    images = np.random.default_rng(0).uniform(size=(6, 8, 8, 3))

    def gradients(dtype):
        keras.utils.set_random_seed(0)
        x = pixels = keras.Input((8, 8, 3), dtype=dtype)
        for filters in (4, 5):
            x = keras.layers.Conv2D(filters, 3, dtype=dtype)(x)
            x = keras.layers.BatchNormalization(epsilon=epsilon, dtype=dtype)(x)
            x = keras.layers.Activation(activation, dtype=dtype)(x)
        network = keras.Model(pixels, x)
        for weight in network.weights:
            draw = np.random.default_rng(weight.shape[-1])
            weight.assign(draw.normal(0.5, 0.5, weight.shape))
        points = tf.constant(images, dtype)
        differentiable = DifferentiableNetwork(network)
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(points)
                value = tf.reduce_sum(tf.sin(differentiable(points, training=True)))
            length = tf.reduce_sum(tf.square(inner.gradient(value, points)))
        return outer.gradient(length, network.trainable_variables)

    expected = gradients("float64")
    largest = max(np.abs(each).max() for each in expected)
    for one, other in zip(gradients("float32"), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * largest)
