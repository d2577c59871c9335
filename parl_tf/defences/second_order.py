"""Batch normalisation whose gradients can be differentiated."""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf


@contextlib.contextmanager
def exact_moments(models: Sequence[keras.Model]) -> Iterator[None]:
    """Lets batch normalisation in training mode be differentiated twice, meanwhile.

    `tf.nn.moments`, which Keras uses, takes the mean inside the variance for a constant. That
    changes no first derivative, but every second one: a loss on input gradients would be trained
    along a wrong direction. Values stay the same up to rounding.

    Args:
        models: Keras models; their `BatchNormalization` layers, also those of models within them,
            compute their moments by plain operations. Synchronised ones do so already.
    """
    layers = {id(layer): layer for model in models for layer in _batch_normalizations(model)}
    for layer in layers.values():
        layer._moments = functools.partial(_moments, layer, layer._moments)
    try:
        yield
    finally:
        for layer in layers.values():
            del layer._moments


def _batch_normalizations(model):
    """The layers of batch normalisation of a model and of those within it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _batch_normalizations(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            yield layer


def _moments(layer, original, inputs, mask):
    """Mean and variance over all axes but the layer's own."""
    if mask is not None or layer.synchronized:
        return original(inputs, mask)
    axes = [axis for axis in range(inputs.shape.rank) if axis != layer.axis % inputs.shape.rank]
    mean = tf.reduce_mean(inputs, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(inputs - mean), axes)
    return tf.squeeze(mean, axes), variance
