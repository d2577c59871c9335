"""Crafts images for a training step, as constants and without changing the members."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from parl_tf.runtime.replicas import num_replicas, own_part
from parl_tf.tensors import project


def ascend(
    objective: Callable[[tf.Tensor], tf.Tensor],
    start: tf.Tensor,
    centers: tf.Tensor,
    *,
    epsilon: tf.Tensor | float,
    step_size: tf.Tensor | float,
    num_steps: int,
    decay_factor: float = 0.0,
) -> tf.Tensor:
    """Follows the sign of a gradient upwards, inside L-infinity balls and [0, 1].

    Args:
        objective: From images (batch, height, width, channels) to a scalar, the sum of one value
            for each example. Traced once, whatever `num_steps` is, but on several replicas for
            each step, as sums over replicas cannot be inside a loop.
        start: The images to start from.
        centers: The centres of the balls, of the shape of `start`, pixels in [0, 1].
        epsilon: Radius of the balls, in pixel units.
        step_size: Size of a step, in pixel units.
        num_steps: Number of steps.
        decay_factor: Factor on the gradients of earlier steps, each example's divided by its L1
            norm; 0 for no momentum.

    Returns:
        Tensor of the shape of `start`, through which no gradient flows.

    Source: Dong et al. 2018, arXiv 1710.06081 (momentum); without it Madry et al. 2018,
    arXiv 1706.06083.
    """

    def step(images: tf.Tensor, momentum: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            value = objective(images)
        gradient = tape.gradient(value, images)
        axes = list(range(1, gradient.shape.rank))
        norm = tf.reduce_sum(tf.abs(gradient), axis=axes, keepdims=True)
        momentum = decay_factor * momentum + tf.math.divide_no_nan(gradient, norm)
        moved = project(images + step_size * tf.sign(momentum), centers, epsilon)
        return tf.ensure_shape(moved, start.shape), momentum

    images, momentum = start, tf.zeros_like(start)
    if num_replicas() > 1:
        for _ in range(num_steps):
            images, momentum = step(images, momentum)
    else:
        images, _ = tf.while_loop(
            lambda *_: True, step, (images, momentum), maximum_iterations=num_steps
        )
    return tf.stop_gradient(images)


def step_number(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Number of the step that an optimizer is about to make, from 0.

    Under `gradient_accumulation_steps` the optimizer's `iterations` count updates of the weights,
    of several batches each. Here each batch is a step. The count is saved with the optimizer.

    Args:
        optimizer: The optimizer, or a `LossScaleOptimizer` around it, whose own count is constant.

    Returns:
        int32 tensor, a scalar.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    count = optimizer.iterations
    if getattr(optimizer, "gradient_accumulation_steps", None):
        count = next(each for each in optimizer.variables if each.name == "iteration")
    return tf.cast(count, tf.int32)


def uniform(shape: tf.Tensor, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Draws uniformly from [0, 1), the same with and without XLA; half precision may round to 1.

    TensorFlow's own floating-point draws differ under XLA; its integer draws do not. Replicas draw
    for the whole batch, and each takes its part, so an image's draws do not depend on their number.

    Args:
        shape: Shape of the result; the first dimension is the batch's.
        seed: int32 tensor (2,).
        dtype: Floating-point type of the result, to which multiples of 2**-24 are rounded.
    """
    whole_batch = tf.concat([shape[:1] * num_replicas(), shape[1:]], axis=0)
    bits = tf.random.stateless_uniform(
        whole_batch, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    bits = own_part(bits)
    whole = tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32))
    return tf.cast(tf.cast(whole, tf.float32) * 2.0**-24, dtype)


def random_start(centers: tf.Tensor, epsilon: tf.Tensor | float, seed: tf.Tensor) -> tf.Tensor:
    """Draws uniformly from L-infinity balls, clipped to [0, 1].

    Args:
        centers: Tensor (batch, height, width, channels), pixels in [0, 1].
        epsilon: Radius of the balls, in pixel units.
        seed: int32 tensor (2,).

    Returns:
        Tensor of the shape of `centers`.
    """
    noise = 2 * uniform(tf.shape(centers), seed, centers.dtype) - 1
    return project(centers + epsilon * noise, centers, epsilon)


@contextlib.contextmanager
def kept_state(models: Sequence[keras.Model]) -> Iterator[None]:
    """Restores at the end the state that passes in training mode change without an optimizer.

    This is the moving statistics of batch normalisation and the states of random layers.
    """
    variables = [variable for model in models for variable in model.non_trainable_variables]
    values = [tf.identity(variable.value) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
