import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import examples, residual_network

from parl_tf.defences.second_order import exact_moments


def nested_network():
    inner = residual_network(0, activation="tanh")
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(pixels)
    return keras.Model(pixels, inner(x))


def batch_norms(network):
    inner = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    layers = [*network.layers, *(layer for model in inner for layer in model.layers)]
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def test_values_and_moving_statistics_stay_those_of_keras():
    images, _ = examples(6)
    results = []
    for exact in (False, True):
        network = nested_network()
        if exact:
            with exact_moments([network]):
                logits = network(images, training=True)
        else:
            logits = network(images, training=True)
        results.append([logits, *network.get_weights()])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def fail_within(network):
    with exact_moments([network, network]):
        assert all("_moments" in vars(layer) for layer in batch_norms(network))
        raise ZeroDivisionError


def test_networks_are_left_as_they_were_even_after_an_error():
    network = nested_network()
    assert len(batch_norms(network)) == 4
    with pytest.raises(ZeroDivisionError):
        fail_within(network)
    assert not any("_moments" in vars(layer) for layer in batch_norms(network))


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
def test_second_derivative_is_exact_only_meanwhile(float64, exact):
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3)(pixels)
    x = keras.layers.Activation("tanh")(keras.layers.BatchNormalization()(x))
    network = keras.Model(pixels, x)
    generator = np.random.default_rng(0)
    images, direction = (tf.constant(generator.uniform(size=(4, 8, 8, 3))) for _ in range(2))
    with exact_moments([network] if exact else []):
        _, found = second_derivative(network, images, direction)
        lengths = [
            second_derivative(network, images + step * direction, direction)[0]
            for step in (1e-6, -1e-6)
        ]
    measured = float(lengths[0] - lengths[1]) / 2e-6
    # Were this to hold without, Keras would have it right by itself, and the module could go.
    assert (float(found) == pytest.approx(measured, rel=1e-5)) == exact
