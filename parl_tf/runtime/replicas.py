"""Communication between the replicas of a distribution strategy within a training step.

With one replica, its part is the whole batch. With several, every replica must call the functions
of tensors in the same order, outside loops and conditionals of the graph.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from parl_tf.errors import InputError


def num_replicas() -> int:
    """Number of replicas of the active strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def gathered(part: tf.Tensor) -> tf.Tensor:
    """Concatenates the replicas' parts of a batch; gradients flow back into the parts.

    Args:
        part: Tensor (part of the batch, ...).

    Returns:
        Tensor (batch, ...), the parts in the order of the replicas.
    """
    if num_replicas() == 1:
        return part
    return tf.distribute.get_replica_context().all_gather(part, axis=0)


def own_part(whole: tf.Tensor) -> tf.Tensor:
    """This replica's part of a whole batch that is split into equal parts.

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
    """The sum of a tensor over the replicas; gradients flow through it."""
    if num_replicas() == 1:
        return value
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def equal_parts(part: tf.Tensor) -> tf.Tensor:
    """A part of the batch, with an assertion in the graph that all parts have the same size.

    With unequal parts the mean over replicas would differ from the mean over the batch.
    """
    if num_replicas() == 1:
        return part
    size = tf.shape(part)[0]
    equal = tf.equal(summed(size), num_replicas() * size)
    message = "Expected batches that split evenly over the devices; drop the remainder."
    with tf.control_dependencies([tf.debugging.Assert(equal, [message])]):
        return tf.identity(part)


def finite_together(gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Gradients, set to NaN on every replica if any replica's are not finite.

    Keras checks only one replica when it decides whether to skip a half-precision step.
    """
    if num_replicas() == 1:
        return list(gradients)
    wrong = [tf.math.count_nonzero(~tf.math.is_finite(each)) for each in gradients]
    finite = tf.equal(summed(tf.add_n(wrong)), 0)
    return [tf.where(finite, each, tf.cast(float("nan"), each.dtype)) for each in gradients]


def check_distribution(model: Any, layers: Iterable[tuple[str, keras.Layer]]) -> None:
    """Raises InputError where `fit` is known to train a model differently from one device.

    Args:
        model: A compiled Keras model.
        layers: All its layers, each preceded by the name of its member.
    """
    strategy = model.distribute_strategy
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise InputError(
            "Expected tf.distribute.MirroredStrategy, on the devices of one machine. Received: "
            "MultiWorkerMirroredStrategy, under which Keras 3 cannot fit (keras issue 20585). To "
            "use several machines, run one training on each: parl-reproduce --ray, or --list for "
            "another scheduler."
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
            "Expected an optimizer without clipping, as Keras clips each replica's part of a "
            f"gradient separately. Received: clipnorm, global_clipnorm, clipvalue = {clipping}."
        )
    if getattr(model.loss, "reduction", "") == "mean_with_sample_weight":
        raise InputError(
            "Expected a loss with another reduction, as each replica would divide by the sample "
            f"weights of its own part. Received: {model.loss.reduction!r}."
        )
    if model.steps_per_execution > 1 or model.jit_compile is True:
        raise InputError(
            "Expected compile(steps_per_execution=1, jit_compile=False), as Keras 3 supports "
            "neither several steps per execution nor XLA under a strategy. Received: "
            f"steps_per_execution={model.steps_per_execution}, jit_compile={model.jit_compile}."
        )


def _check_layer(layer: keras.Layer, member: str) -> None:
    """Raises InputError for a layer that would behave differently on each replica."""
    if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized:
        raise InputError(
            "Expected BatchNormalization(synchronized=True) under a strategy with several "
            "replicas, as otherwise each replica has its own moving statistics. Received: "
            f"{layer.name!r} in {member!r}."
        )
    if any(getattr(layer, name, None) is not None for name in ("seed_generator", "generator")):
        raise InputError(
            "Expected members without random layers under a strategy with several replicas, as "
            "each replica draws its own numbers, unlike one device for the whole batch. Received: "
            f"{layer.name!r}, a {type(layer).__name__}, in {member!r}."
        )
