"""The devices of one machine, for a training on several of them."""

import contextlib
import functools
from collections.abc import Iterator

import tensorflow as tf

from parl_tf.errors import InputError
from parl_tf.runtime.replicas import num_replicas


@contextlib.contextmanager
def spread_over(num_devices: int) -> Iterator[None]:
    """Has what is made and trained meanwhile be made and trained on several devices.

    These are the first GPUs. On a machine without one its CPU is split up, which makes nothing
    faster and is for trying things out.

    Args:
        num_devices: How many. Nothing happens where there are as many replicas already.

    Raises:
        InputError: Fewer GPUs; a CPU that TensorFlow has begun to use as fewer; or a strategy of
            another number of replicas is at hand.
    """
    if num_devices == num_replicas():
        yield
        return
    if tf.distribute.has_strategy():
        raise InputError(
            f"Expected a strategy of {num_devices} replicas, or none. Received: {num_replicas()}."
        )
    with _strategy(num_devices).scope():
        yield


@functools.cache
def _strategy(number):
    """The strategy over so many devices, one a process: a second one would mix up their traffic."""
    return tf.distribute.MirroredStrategy(_devices(number))


def _devices(number):
    """Names of so many devices of one kind."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if number > len(gpus):
            raise InputError(f"Expected at most {len(gpus)} devices, the GPUs. Received: {number}.")
        return [f"GPU:{index}" for index in range(number)]
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) < number:
        parts = [tf.config.LogicalDeviceConfiguration()] * number
        try:
            tf.config.set_logical_device_configuration(cpu, parts)
        except RuntimeError:
            raise InputError(
                f"TensorFlow has begun to use the CPU as one device. Expected to be asked for "
                f"{number} of them before anything is computed."
            ) from None
    return [f"CPU:{index}" for index in range(number)]
