"""Penalties on the weights of existing networks."""

from collections.abc import Iterator

import keras

from parl_tf.errors import InputError

_WEIGHTS = ("kernel", "depthwise_kernel", "pointwise_kernel", "bias", "gamma", "beta")


def penalize_all_weights(network: keras.Model, penalty: float) -> None:
    """Puts an L2 penalty on all trainable weights of a network, replacing those that it has.

    These are kernels, biases, scales and offsets, as with the weight decay of PyTorch's optimizers,
    which is twice the penalty.

    Args:
        network: Any Keras model, changed in place. The penalties are saved with it.
        penalty: Factor on the weights' squares; 0 for no penalty.

    Raises:
        InputError: A negative penalty, or a trainable weight whose layer takes no regularizer.
    """
    if not 0 <= penalty < float("inf"):
        raise InputError(f"Expected a penalty of at least 0. Received: {penalty}.")
    reached = set()
    for layer in _layers(network):
        for name in _WEIGHTS:
            weight, regularizer = getattr(layer, name, None), f"{name}_regularizer"
            if isinstance(weight, keras.Variable) and hasattr(layer, regularizer):
                weight.regularizer = keras.regularizers.L2(penalty) if penalty else None
                setattr(layer, regularizer, weight.regularizer)
                reached.add(id(weight))
    left = [weight.path for weight in network.trainable_variables if id(weight) not in reached]
    if left:
        raise InputError(
            "Expected a network whose layers take a regularizer for each of their trainable "
            f"weights, or a recipe with penalized='convolutions'. Received: {', '.join(left)}."
        )


def _layers(network: keras.Model) -> Iterator[keras.Layer]:
    """The layers of a network, including those of nested models."""
    for layer in network.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
