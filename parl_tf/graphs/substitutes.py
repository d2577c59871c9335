"""Substitutes for Keras's operations where gradients are to be differentiated.

`tf.nn.moments`, which Keras uses for batch, layer and group normalisation, treats the mean inside
the variance as a constant. That changes no first derivative, but every second one: a loss on input
gradients would be trained in a wrong direction. Softsign and most resizing have no second
derivative at all. That of ReLU is zeros, which TensorFlow carries back through the network.

A substitute has the values and first derivatives of the original, up to rounding. It is called
where a graph is run; the graph, its layers and the libraries are not changed.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from parl_tf.graphs.resizing import resized
from parl_tf.graphs.twice_differentiable import (
    LEAST_EPSILON,
    BatchMoments,
    batch_normalized,
    moments,
    rectified,
    softsign,
)


def substitute(operation: Any) -> Callable[..., Any]:
    """What to call in place of an operation, so that its gradient can be differentiated.

    Args:
        operation: A built layer, or an operation that a function of `keras.ops` added to a graph.

    Returns:
        The operation itself if it needs no substitute; only Keras's own operations and layers, not
        subclasses, have one. An operation is replaced by a function, a layer by another one with
        its weights, states and options, which Keras calls in the same way.
    """
    if not isinstance(operation, keras.Layer):
        own = type(operation).__module__.split(".")[0] == "keras"
        function = _OPERATIONS.get(type(operation).__name__) if own else None
        return functools.partial(function, operation) if function else operation
    if type(operation) in _LAYERS:
        return _twin(operation, _LAYERS[type(operation)])
    if type(operation) in _ACTIVATED:
        for activation, function in _ACTIVATIONS:
            if operation.activation is activation:
                return _twin(operation, type(operation), activation=function)
    return operation


def needs_substitute(layer: keras.Layer) -> bool:
    """Whether a layer's own second derivative is wrong or missing, and a substitute's correct."""
    softsign_in_it = getattr(layer, "activation", None) is keras.activations.softsign
    rectifier = type(layer) in (keras.layers.ReLU, keras.layers.LeakyReLU)
    return softsign_in_it or (type(layer) in _LAYERS and not rectifier)


def _twin(layer: keras.Layer, twin_class: type, **attributes: Any) -> keras.Layer:
    """A layer that shares another one's attributes, except its class and the given ones."""
    twin: Any = object.__new__(twin_class)
    vars(twin).update(vars(layer), **attributes)
    return twin


class _BatchNormalization(keras.layers.BatchNormalization):
    """With the statistics of the batch; with fused operations, where these apply."""

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:
        """As Keras's, which is called itself if it does not use `tf.nn.moments`."""
        plain = not training or not self.trainable or mask is not None
        if plain or _across_replicas(self) or getattr(self, "renorm", False):
            return super().call(inputs, training=training, mask=mask)
        x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        scale = tf.cast(self.gamma, x.dtype) if self.scale else None
        offset = tf.cast(self.beta, x.dtype) if self.center else None
        rank = len(x.shape)
        axis = self.axis % rank
        if x.dtype == tf.float32 and (rank, axis) == (4, 3) and self.epsilon >= LEAST_EPSILON:
            batch = BatchMoments(x, self.epsilon)
            mean, variance = batch.mean, batch.variance
            scale = tf.ones_like(mean) if scale is None else scale
            offset = tf.zeros_like(mean) if offset is None else offset
            outputs = batch_normalized(batch, scale, offset)
        else:
            mean, variance = moments(x, [each for each in range(rank) if each != axis])
            outputs = keras.ops.batch_normalization(
                x, mean, variance, self.axis, offset, scale, self.epsilon
            )
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = tf.cast(moving, x.dtype)
            moving.assign(old * self.momentum + value * (1.0 - self.momentum))
        return tf.cast(outputs, self.compute_dtype)


class _LayerNormalization(keras.layers.LayerNormalization):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """As Keras's."""
        if getattr(self, "rms_scaling", False):
            return super().call(inputs)
        outputs = _layer_normalized(inputs, self.gamma, self.beta, self.axis, self.epsilon)
        return tf.cast(outputs, self.compute_dtype)


class _GroupNormalization(keras.layers.GroupNormalization):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """As Keras's."""
        axis = self.axis % len(inputs.shape)
        sizes = keras.ops.shape(inputs)
        groups = (self.groups, sizes[axis] // self.groups)
        x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        x = tf.reshape(x, (-1, *sizes[1:axis], *groups, *sizes[axis + 1 :]))
        rank = len(x.shape)
        shape = [1] * rank
        shape[axis : axis + 2] = groups
        axes = [each for each in range(1, rank) if each != axis]
        outputs = _normalized(x, axes, shape, self.gamma, self.beta, self.epsilon)
        return tf.cast(tf.reshape(outputs, sizes), self.compute_dtype)


class _ReLU(keras.layers.ReLU):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """As Keras's."""
        return _relu(self, inputs, super().call)


class _LeakyReLU(keras.layers.LeakyReLU):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """As Keras's."""
        return _rectified(inputs, self.negative_slope)


class _Resizing(keras.layers.Resizing):
    def transform_images(
        self, images: Any, transformation: Any = None, training: bool = True
    ) -> tf.Tensor:
        """As Keras's."""
        return resized(
            lambda x: super(_Resizing, self).transform_images(x, transformation, training),
            tf.convert_to_tensor(images),
            self,
        )


class _UpSampling2D(keras.layers.UpSampling2D):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """As Keras's."""
        if self.interpolation == "nearest":  # which repeats pixels
            return super().call(inputs)
        return resized(super().call, inputs, self)


def _across_replicas(options: Any) -> bool:
    """Whether Keras sums moments over replicas, with operations that can be differentiated twice.

    Outside a replica, as in a strategy's scope before `fit`, it uses `tf.nn.moments`.
    """
    return options.synchronized and tf.distribute.get_replica_context() is not None


def _relu(options: Any, x: tf.Tensor, own: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Keras's ReLU, by its own function if it has a maximum or a threshold."""
    if options.max_value is not None or options.threshold:
        return own(x)
    return _rectified(x, options.negative_slope)


def _rectified(x: tf.Tensor, slope: Any = 0.0) -> tf.Tensor:
    """`keras.activations.leaky_relu`, for numbers of any type."""
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        return keras.activations.leaky_relu(x, slope) if slope else keras.activations.relu(x)
    return rectified(x, float(slope))


def _moments(operation: Any, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`keras.ops.moments`."""
    if _across_replicas(operation):
        return operation(x)
    mean, variance = moments(x, operation.axes, keepdims=operation.keepdims)
    return tf.saturate_cast(mean, x.dtype), tf.saturate_cast(variance, x.dtype)


def _layer_norm(operation: Any, x: tf.Tensor, gamma: Any = None, beta: Any = None) -> tf.Tensor:
    """`keras.ops.layer_normalization`."""
    if operation.rms_scaling:
        return operation(x, gamma, beta)
    return _layer_normalized(x, gamma, beta, operation.axis, operation.epsilon)


def _layer_normalized(
    inputs: tf.Tensor, scale: Any, offset: Any, axis: int | Sequence[int], epsilon: float | None
) -> tf.Tensor:
    """Normalises over axes, along which scales and offsets vary."""
    x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    axes = [each % len(x.shape) for each in tf.nest.flatten(axis)]
    shape = [size if each in axes else 1 for each, size in enumerate(x.shape)]
    epsilon = keras.config.epsilon() if epsilon is None else epsilon
    return tf.cast(_normalized(x, axes, shape, scale, offset, epsilon), inputs.dtype)


def _normalized(
    x: tf.Tensor,
    axes: Sequence[int],
    shape: Sequence[int],
    scale: Any,
    offset: Any,
    epsilon: float,
) -> tf.Tensor:
    """Normalises over axes, with scales and offsets, if any, of a given shape."""
    mean, variance = moments(x, axes, keepdims=True)
    inverse = tf.math.rsqrt(variance + epsilon)
    if scale is not None:
        inverse *= tf.reshape(tf.cast(scale, x.dtype), shape)
    rest = -mean * inverse
    if offset is not None:
        rest += tf.reshape(tf.cast(offset, x.dtype), shape)
    return x * inverse + rest


_LAYERS: dict[type, type] = {
    keras.layers.BatchNormalization: _BatchNormalization,
    keras.layers.LayerNormalization: _LayerNormalization,
    keras.layers.GroupNormalization: _GroupNormalization,
    keras.layers.ReLU: _ReLU,
    keras.layers.LeakyReLU: _LeakyReLU,
    keras.layers.Resizing: _Resizing,
    keras.layers.UpSampling2D: _UpSampling2D,
}
_ACTIVATED = (
    keras.layers.Activation,
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_ACTIVATIONS: tuple[tuple[Any, Callable[[tf.Tensor], tf.Tensor]], ...] = (
    (keras.activations.relu, _rectified),
    (keras.activations.leaky_relu, functools.partial(_rectified, slope=0.2)),
    (keras.activations.softsign, softsign),
)
# By class name, as Keras does not export these classes.
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "ReLU": lambda operation, x: _relu(operation, x, operation),
    "Relu": lambda operation, x: _rectified(x),
    "LeakyRelu": lambda operation, x: _rectified(x, operation.negative_slope),
    "Softsign": lambda operation, x: softsign(x),
    "Moments": _moments,
    "LayerNorm": _layer_norm,
    "Resize": lambda operation, images: resized(operation, images, operation),
}
