"""What the replicas of a distribution strategy know of each other within a step.

On one device the whole batch is a replica's own part. On several a function of tensors is called
by every replica, in the same order, outside of loops and conditions of the graph.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from parl_tf.errors import InputError


def num_replicas() -> int:
    """How many replicas there are in the strategy at hand."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def gathered(part: tf.Tensor) -> tf.Tensor:
    """The whole batch, from each replica's part of it; gradients flow back into the parts.

    Args:
        part: Tensor (part of the batch, ...).

    Returns:
        Tensor (batch, ...), the parts in the order of the replicas.
    """
    if num_replicas() == 1:
        return part
    return tf.distribute.get_replica_context().all_gather(part, axis=0)


def own_part(whole: tf.Tensor) -> tf.Tensor:
    """A replica's part of something of the whole batch, whose parts are of one size.

    Args:
        whole: Tensor (batch, ...), the same on every replica.

    Returns:
        Tensor (part of the batch, ...).
    """
    if num_replicas() == 1:
        return whole
    size = tf.shape(whole)[0] // num_replicas()
    start = size * tf.distribute.get_replica_context().replica_id_in_sync_group
    return whole[start : start + size]


def summed(value: tf.Tensor) -> tf.Tensor:
    """The sum of a tensor over the replicas, through which gradients flow."""
    if num_replicas() == 1:
        return value
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def equal_parts(part: tf.Tensor) -> tf.Tensor:
    """A part of the batch, with an assertion in the graph that all replicas' are of its size.

    Otherwise the mean of what replicas measure is not the batch's.
    """
    if num_replicas() == 1:
        return part
    size = tf.shape(part)[0]
    equal = tf.equal(summed(size), num_replicas() * size)
    message = "Expected batches that all devices have equal parts of; drop what is left over."
    with tf.control_dependencies([tf.debugging.Assert(equal, [message])]):
        return tf.identity(part)


def finite_together(gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Gradients, NaN on every replica if those of one are not finite.

    Keras decides by one replica's whether a step in half precision is left out.
    """
    if num_replicas() == 1:
        return list(gradients)
    wrong = [tf.math.count_nonzero(~tf.math.is_finite(each)) for each in gradients]
    finite = tf.equal(summed(tf.add_n(wrong)), 0)
    return [tf.where(finite, each, tf.cast(float("nan"), each.dtype)) for each in gradients]


def check_distribution(model: Any, layers: Iterable[tuple[str, keras.Layer]]) -> None:
    """Raises InputError where `fit` is known to train a model otherwise than on one device.

    Args:
        model: A compiled Keras model.
        layers: All layers in it, each behind the name of the member that it is in.
    """
    strategy = model.distribute_strategy
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise InputError(
            "Keras 3 cannot fit under MultiWorkerMirroredStrategy (keras issue 20585). Expected "
            "tf.distribute.MirroredStrategy, over the devices of one machine; for several "
            "machines, a training on each: parl-reproduce --ray, or --list for another scheduler."
        )
    if strategy.num_replicas_in_sync == 1:
        return
    if not isinstance(strategy, tf.distribute.MirroredStrategy):
        raise InputError(
            f"Expected tf.distribute.MirroredStrategy. Received: {type(strategy).__name__}."
        )
    for member, layer in layers:
        _check_layer(layer, member)
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    clipping = [optimizer.clipnorm, optimizer.global_clipnorm, optimizer.clipvalue]
    if any(limit is not None for limit in clipping):
        raise InputError(
            "Keras would clip each replica's part of a gradient by itself. Expected an optimizer "
            f"without clipping. Received: clipnorm, global_clipnorm, clipvalue = {clipping}."
        )
    if getattr(model.loss, "reduction", "") == "mean_with_sample_weight":
        raise InputError(
            "Each replica would divide by the sample weights of its own part. Expected a loss of "
            f"another reduction. Received: {model.loss.reduction!r}."
        )
    if model.steps_per_execution > 1 or model.jit_compile is True:
        raise InputError(
            "Keras 3 can neither make several steps an execution nor compile by XLA under a "
            "strategy. Expected compile(steps_per_execution=1, jit_compile=False). Received: "
            f"steps_per_execution={model.steps_per_execution}, jit_compile={model.jit_compile}."
        )


def _check_layer(layer: keras.Layer, member: str) -> None:
    """Raises InputError for a layer that would do something else in each replica."""
    if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized:
        raise InputError(
            f"Under a strategy of several replicas each would have moving statistics of its own. "
            f"Expected BatchNormalization(synchronized=True). Received: {layer.name!r} in "
            f"{member!r}."
        )
    if any(getattr(layer, name, None) is not None for name in ("seed_generator", "generator")):
        raise InputError(
            "Under a strategy of several replicas a layer does not draw what it draws for the "
            f"whole batch. Expected members without such layers. Received: {layer.name!r}, a "
            f"{type(layer).__name__}, in {member!r}."
        )
