"""Layers' functions, with the second derivatives written out that TensorFlow has wrong or dear."""

import tensorflow as tf


def rectified(inputs: tf.Tensor, slope: float = 0.0) -> tf.Tensor:
    """ReLU, or leaky ReLU, whose second derivative is none where TensorFlow's is zeros.

    TensorFlow computes with these zeros all the way back through the network.

    Args:
        inputs: Float tensor.
        slope: Slope below zero.

    Returns:
        Tensor of the same shape.
    """

    @tf.custom_gradient
    def forward(x):
        if slope:
            output = tf.raw_ops.LeakyRelu(features=x, alpha=slope)
        else:
            output = tf.raw_ops.Relu(features=x)

        @tf.custom_gradient
        def backward(upstream):
            if slope:
                back = tf.raw_ops.LeakyReluGrad(gradients=upstream, features=x, alpha=slope)
            else:
                back = tf.raw_ops.ReluGrad(gradients=upstream, features=output)
            return back, backward  # linear, and its own transpose

        return output, backward

    return forward(tf.convert_to_tensor(inputs))


def batch_normalized(
    inputs: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float
) -> tf.Tensor:
    """Normalisation by the statistics of the batch, which are differentiated through.

    The gradient is one fused operation. Its own, with respect to the upstream gradient, is the
    same operation again, which is symmetric; with respect to the inputs it is a sum of three
    tensors with a factor for each channel. With x the normalised inputs, u the upstream gradient,
    g what comes back for the gradient, and means over all but channels,

        a = mean(u x),  b = mean(g x),  c = mean(g u) - mean(g) mean(u),
        scale / deviation^2 * ((3 a b - c) x - b (u - mean(u)) - a (g - mean(g))).

    The gradient with respect to scale and offset is not differentiable, nor are second derivatives:
    trying raises LookupError.

    Args:
        inputs: float32 tensor (batch, height, width, channels).
        scale: Tensor (channels,).
        offset: Tensor (channels,).
        epsilon: Added to the variance.

    Returns:
        Tensor of the shape of `inputs`.
    """

    @tf.custom_gradient
    def forward(x, scale, offset):
        normed = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=[], variance=[], epsilon=epsilon
        )

        def input_gradient(upstream, x, scale):
            back = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=x,
                scale=scale,
                reserve_space_1=normed.reserve_space_1,
                reserve_space_2=normed.reserve_space_2,
                reserve_space_3=normed.reserve_space_3,
                epsilon=epsilon,
            )
            return back.x_backprop, back.scale_backprop, back.offset_backprop

        @tf.custom_gradient
        def backward(upstream, x, scale):
            dx, dscale, doffset = input_gradient(upstream, x, scale)

            def second(g, *_):
                count = tf.cast(tf.size(x) // tf.size(scale), x.dtype)
                # What the operation returns is the unbiased variance.
                variance = normed.batch_variance * (count - 1) / count
                inverse = tf.math.rsqrt(variance + epsilon)
                dg, gx, g_sum = input_gradient(g, x, scale)
                a, u_mean, b, g_mean = (each / count for each in (dscale, doffset, gx, g_sum))
                c = tf.reduce_mean(g * upstream, axis=[0, 1, 2]) - g_mean * u_mean
                factor = scale * tf.square(inverse)
                along = tf.raw_ops.FusedBatchNormV3(
                    x=x,
                    scale=factor * (3 * a * b - c),
                    offset=factor * (b * u_mean + a * g_mean),
                    mean=normed.batch_mean,
                    variance=variance,
                    epsilon=epsilon,
                    is_training=False,
                )
                across = upstream * (factor * b) + g * (factor * a)
                return _last([dg, along.y - across, count * inverse * (c - a * b)])

            return (dx, dscale, doffset), second

        def first(upstream):
            dx, *others = backward(upstream, x, scale)
            return dx, *_last(others)

        return normed.y, first

    return forward(inputs, scale, offset)


def _last(derivatives):
    """Derivatives that have none themselves: what they are made of is held constant in them."""
    message = "This derivative of batch normalisation is not differentiable."
    return [tf.raw_ops.PreventGradient(input=each, message=message) for each in derivatives]
