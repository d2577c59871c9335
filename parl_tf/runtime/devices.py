"""Training on several devices of one machine."""

import contextlib
import functools
from collections.abc import Iterator

import tensorflow as tf

from parl_tf.errors import InputError
from parl_tf.runtime.replicas import num_replicas


@contextlib.contextmanager
def spread_over(num_devices: int) -> Iterator[None]:
    """A context in which models are created and trained on several devices.

    The first GPUs are used. Without a GPU, the CPU is split into logical devices, which is no
    faster but lets you try things out.

    Args:
        num_devices: Number of devices. If a strategy with as many replicas is already active,
            nothing changes.

    Raises:
        InputError: There are fewer GPUs; TensorFlow already uses the CPU as fewer devices; or a
            strategy with another number of replicas is active.

    Example:
        >>> with parl_tf.spread_over(2):  # before TensorFlow computes anything
        ...     members = [parl_tf.NETWORKS["resnet8"](10, seed=seed) for seed in range(2)]
        ...     ensemble = parl_tf.PARL(members, num_layers=3)
        >>> ensemble.distribute_strategy.num_replicas_in_sync
        2
    """
    if num_devices == num_replicas():
        yield
        return
    if tf.distribute.has_strategy():
        raise InputError(
            f"Expected a strategy with {num_devices} replicas, or none. Received: {num_replicas()}."
        )
    with _strategy(num_devices).scope():
        yield


@functools.cache
def _strategy(number: int) -> tf.distribute.Strategy:
    """The strategy for a number of devices; one per process, as two would mix their traffic."""
    return tf.distribute.MirroredStrategy(_devices(number))


def _devices(number: int) -> list[str]:
    """Names of the first devices of one kind."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if number > len(gpus):
            raise InputError(
                f"Expected at most {len(gpus)} devices, one per GPU. Received: {number}."
            )
        return [f"GPU:{index}" for index in range(number)]
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) < number:
        parts = [tf.config.LogicalDeviceConfiguration()] * number
        try:
            tf.config.set_logical_device_configuration(cpu, parts)
        except RuntimeError:
            raise InputError(
                f"Expected {number} devices to be requested before TensorFlow computes anything. "
                "Received: a process in which it already uses the CPU as fewer devices."
            ) from None
    return [f"CPU:{index}" for index in range(number)]
