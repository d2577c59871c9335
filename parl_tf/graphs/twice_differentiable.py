"""Layers' functions, with second derivatives where TensorFlow's are wrong, missing or slow."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

LEAST_EPSILON = 1.001e-5
"""Smallest epsilon of fused normalisation on GPUs."""


def rectified(inputs: tf.Tensor, slope: float = 0.0) -> tf.Tensor:
    """ReLU, or leaky ReLU, without a second derivative where TensorFlow's is zeros.

    TensorFlow would propagate these zeros all the way back through the network.

    Args:
        inputs: Float tensor.
        slope: Slope below zero.

    Returns:
        Tensor of the same shape.
    """

    @tf.custom_gradient
    def forward(x: tf.Tensor) -> Any:
        if slope:
            output = tf.raw_ops.LeakyRelu(features=x, alpha=slope)
        else:
            output = tf.raw_ops.Relu(features=x)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            held = tf.stop_gradient(x if slope else output)  # so that it has no derivative
            if slope:
                return tf.raw_ops.LeakyReluGrad(gradients=upstream, features=held, alpha=slope)
            return tf.raw_ops.ReluGrad(gradients=upstream, features=held)

        return output, backward

    return forward(tf.convert_to_tensor(inputs))


def softsign(inputs: tf.Tensor) -> tf.Tensor:
    """Softsign, from operations that have all derivatives."""
    return inputs / (1 + tf.abs(inputs))


def moments(
    inputs: tf.Tensor, axes: Sequence[int], *, keepdims: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance over axes, in at least float32, with all derivatives.

    `tf.nn.moments` treats the mean as a constant in the variance.
    """
    inputs = tf.cast(inputs, tf.float32) if inputs.dtype.size < 4 else inputs
    mean = tf.reduce_mean(inputs, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(inputs - mean), axes, keepdims=keepdims)
    return mean if keepdims else tf.squeeze(mean, axes), variance


class BatchMoments:
    """Mean and variance of each channel of a batch, from one fused operation.

    Args:
        inputs: float32 tensor (batch, height, width, channels).
        epsilon: Added to the variance by `batch_normalized`.

    Attributes:
        mean: Tensor (channels,). It and `variance` can be differentiated any number of times.
        variance: Tensor (channels,).
        values: The same two, as constants to the tape.
        count: Number of values in a channel, a float32 scalar.
    """

    def __init__(self, inputs: tf.Tensor, epsilon: float) -> None:
        self.inputs = inputs
        self.epsilon = epsilon
        ones = tf.ones(tf.shape(inputs)[-1:])
        fused = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=ones, offset=0 * ones, mean=[], variance=[], epsilon=epsilon
        )
        self.count = tf.cast(tf.size(inputs) // tf.size(ones), inputs.dtype)
        # The operation returns the unbiased variance.
        self.values = fused.batch_mean, fused.batch_variance * (self.count - 1) / self.count
        self._saved = {key: value for key, value in fused._asdict().items() if "reserve" in key}

        @tf.custom_gradient
        def differentiable(x: tf.Tensor) -> Any:
            def gradient(mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
                return (mean + 2 * variance * (x - tf.reduce_mean(x, [0, 1, 2]))) / self.count

            return self.values, gradient

        self.mean, self.variance = differentiable(inputs)

    def normalized(self, scale: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        """The inputs normalised by these moments, with the moments treated as constants."""
        return _transformed(self.inputs, scale, offset, *self.values, self.epsilon)

    def input_gradient(self, upstream: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Gradients of normalisation with respect to inputs, scale and offset."""
        back = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=upstream, x=self.inputs, scale=scale, epsilon=self.epsilon, **self._saved
        )
        return back.x_backprop, back.scale_backprop, back.offset_backprop


def batch_normalized(moments: BatchMoments, scale: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Normalisation by the statistics of the batch, including their derivatives.

    With x the normalised inputs, and means over all axes but channels, the gradient is one fused
    operation, linear and symmetric in the upstream gradient u:

        B(u) = scale / deviation * (u - mean(u) - mean(u x) x).

    With g the upstream gradient of B(u), the gradient of B(u) with respect to u is B(g). With
    respect to the inputs, by way of x, it is

        -(mean(g x) B(u) + mean(u x) B(g)) / deviation,

    and by way of scale / deviation a multiple of x for each channel: the contributions of all
    gradients of one normalisation are summed first.

    The gradient with respect to scale and offset is not differentiable, nor are second derivatives:
    trying raises LookupError.

    Args:
        moments: Moments of the inputs.
        scale: Tensor (channels,).
        offset: Tensor (channels,).

    Returns:
        Tensor of the shape of the inputs.
    """
    count = moments.count
    inverse = tf.math.rsqrt(moments.values[1] + moments.epsilon)

    @tf.custom_gradient
    def factor_of(x: tf.Tensor, scale: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            along = -scale * tf.square(inverse) * upstream / count
            return _last([moments.normalized(along, tf.zeros_like(along)), inverse * upstream])

        return scale * inverse, gradient

    @tf.custom_gradient
    def forward(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> Any:
        @tf.custom_gradient
        def backward(upstream: tf.Tensor, x: tf.Tensor, factor: tf.Tensor) -> Any:
            dx, dscale, doffset = moments.input_gradient(upstream, scale)

            def second(g: tf.Tensor, *_: tf.Tensor) -> list[tf.Tensor]:
                dg, gx, g_sum = moments.input_gradient(g, scale)
                dfactor = tf.reduce_sum(g * upstream, axis=[0, 1, 2])
                dfactor -= (g_sum * doffset + gx * dscale) / count
                # A difference: TensorFlow would merge sums into one, and hold all terms.
                across = _scaled(dx, -inverse * gx / count) - _scaled(dg, inverse * dscale / count)
                return _last([dg, across, dfactor])

            return (dx, dscale, doffset), second

        def first(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            dx, *others = backward(upstream, x, factor_of(x, scale))
            return dx, *_last(others)

        return moments.normalized(scale, offset), first

    return forward(moments.inputs, scale, offset)


def _scaled(values: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Values times a factor for each channel, faster on a busy CPU than a multiplication."""
    zeros = tf.zeros_like(factors)
    return _transformed(values, factors, zeros, zeros, zeros + (1 - LEAST_EPSILON), LEAST_EPSILON)


def _transformed(
    values: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
) -> tf.Tensor:
    """Values normalised by given moments."""
    return tf.raw_ops.FusedBatchNormV3(
        x=values,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    ).y


def _last(derivatives: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Derivatives that have none themselves: differentiating them raises LookupError."""
    message = "This derivative of batch normalisation is not differentiable."
    return [tf.raw_ops.PreventGradient(input=each, message=message) for each in derivatives]
