"""The first layers of a network in inference mode, for gradients that are differentiated again."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from parl_tf.defences.layer_sums import is_plain_convolution
from parl_tf.defences.twice_differentiable import rectified


class FirstLayers:
    """A part of a network in inference mode, at about the cost of its convolutions.

    Its outputs, their input gradients and what is derived from these are those of the layers
    called one by one, up to rounding. Batch normalisation behind a convolution becomes part of
    its kernel; and a ReLU's second derivative is left out, where TensorFlow would carry zeros
    back through the network.

    Args:
        model: Functional Keras model with one input.
        outputs: Symbolic tensors of its graph.
    """

    def __init__(self, model: keras.Model, outputs: Sequence[keras.KerasTensor]) -> None:
        self._model = keras.Model(model.inputs, list(outputs))

    def __call__(self, inputs: tf.Tensor) -> list[tf.Tensor]:
        """The outputs for a batch of images (batch, height, width, channels), pixels in [0, 1]."""
        convolved: dict[int, _Convolved] = {}
        outputs = self._model._run_through_graph(
            inputs, lambda operation: functools.partial(_run, operation, convolved)
        )
        return keras.tree.flatten(outputs)


# A convolution, its input and its output; kept by the id of the output, which stays alive with it.
_Convolved = tuple[keras.Layer, tf.Tensor, tf.Tensor]


def _run(operation: Any, convolved: dict[int, _Convolved], *inputs: Any, **options: Any) -> Any:
    """The output of a layer or operation in inference mode."""
    if isinstance(operation, keras.Layer) and operation._call_has_training_arg:
        options["training"] = False
    given = {name for name, value in options.items() if value is not None} - {"training"}
    if len(inputs) != 1 or given:
        return operation(*inputs, **options)
    first = inputs[0]
    if is_plain_convolution(operation):
        output = operation(first)
        convolved[id(output)] = (operation, first, output)
        return output
    if id(first) in convolved and _normalizes_channels(operation, len(first.shape) - 1):
        # The convolution's own output, if nothing else reads it, is never computed in a graph.
        return _convolve_and_normalize(*convolved[id(first)][:2], operation)
    slope = _negative_slope(operation)
    if slope is not None:
        return rectified(first, slope)
    return operation(*inputs, **options)


def _normalizes_channels(operation: Any, last_axis: int) -> bool:
    """Whether an operation is a batch normalisation of what a convolution's filters give."""
    normalizes = type(operation) is keras.layers.BatchNormalization
    return normalizes and operation.axis in (-1, last_axis)


def _negative_slope(operation: Any) -> float | None:
    """The slope below zero of a ReLU or leaky ReLU, None for anything else."""
    if type(operation) is keras.layers.ReLU:
        plain = operation.max_value is None and not operation.threshold
        return float(operation.negative_slope) if plain else None
    if type(operation) is keras.layers.LeakyReLU:
        return float(operation.negative_slope)
    rectifies = type(operation) is keras.layers.Activation
    return 0.0 if rectifies and operation.activation is keras.activations.relu else None


def _convolve_and_normalize(convolution, inputs, norm):
    """A convolution and the normalisation behind it, as one convolution."""
    wide = keras.backend.result_type(convolution.compute_dtype, norm.compute_dtype, "float32")
    mean, variance = (tf.cast(v, wide) for v in (norm.moving_mean, norm.moving_variance))
    scale = tf.math.rsqrt(variance + norm.epsilon)
    if norm.scale:
        scale *= tf.cast(norm.gamma, wide)
    shift = tf.cast(convolution.bias, wide) - mean if convolution.use_bias else -mean
    offset = scale * shift
    if norm.center:
        offset += tf.cast(norm.beta, wide)
    dtype = convolution.compute_dtype
    kernel = tf.cast(tf.cast(convolution.kernel, wide) * scale, dtype)
    output = convolution.convolution_op(tf.cast(inputs, dtype), kernel)
    return tf.cast(tf.nn.bias_add(output, tf.cast(offset, dtype)), norm.compute_dtype)
