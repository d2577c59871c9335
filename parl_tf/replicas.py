"""What the replicas of a distribution strategy know of each other within a step.

Each function is the identity on one device. On several it is called by every replica, in the same
order, outside of loops and conditions of the graph.
"""

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


def check_distribution(model: Any) -> None:
    """Raises InputError unless `fit` trains a model under its strategy as on one device.

    Args:
        model: A compiled Keras model with `members`.
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
    for member in model.members:
        for layer in member._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized:
                raise InputError(
                    f"Under a strategy of several replicas each would have moving statistics of "
                    f"its own. Expected BatchNormalization(synchronized=True). Received: "
                    f"{layer.name!r} in {member.name!r}."
                )
    if model.steps_per_execution > 1 or model.jit_compile is True:
        raise InputError(
            "Keras 3 can neither make several steps an execution nor compile by XLA under a "
            "strategy. Expected compile(steps_per_execution=1, jit_compile=False). Received: "
            f"steps_per_execution={model.steps_per_execution}, jit_compile={model.jit_compile}."
        )
