"""Bit-for-bit reproducible results."""

import tensorflow as tf

from parl_tf.errors import InputError

_enabled = False


def enable_determinism() -> None:
    """Makes training, attacks and all other computations reproducible bit for bit.

    This holds on one machine with one number of threads, one version of every package, and oneDNN's
    kernels either on or off. Seeds must still be given. It applies to the whole process and cannot
    be undone. Training becomes somewhat slower (see docs/reliability.md).

    TensorFlow's `enable_op_determinism`, which is called here, leaves two gaps. A sum of three or
    more tensors starts with the first one whose memory may be reused, so its rounding depends on
    which operations have already run; here operations run one at a time, each still on all cores.
    And the graph optimizer orders the terms of a sum by memory address, which differs between
    processes; here it is off.

    Call this first: TensorFlow fixes the number of concurrent operations when it first computes
    something. Calling it again does nothing.

    Raises:
        InputError: TensorFlow has already computed something in this process.

    Example:
        >>> parl_tf.enable_determinism()  # before any tensor, model or data set is created
    """
    global _enabled
    if _enabled:
        return
    try:
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        raise InputError(
            "Expected determinism to be enabled before any tensor, model or data set is created. "
            "Received: a process in which TensorFlow has already begun to compute. Enable it "
            "first in a new process."
        ) from None
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    tf.config.experimental.enable_op_determinism()
    _enabled = True


def is_deterministic() -> bool:
    """Whether `enable_determinism` was called in this process."""
    return _enabled  # TensorFlow has no public way to ask
