"""Weights from one network into another."""

import keras


def copy_weights(source: keras.Layer, target: keras.Layer) -> None:
    """Gives a layer or model the weights of another one of the same structure.

    `set_weights` alone is not enough for an adapted `Normalization`, which computes with what it
    made of its weights before.
    """
    target.set_weights(source.get_weights())
    for layer in target._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
