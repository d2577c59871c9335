"""The same bits in every process."""

import tensorflow as tf

from parl_tf.errors import InputError

_enabled = False


def enable_determinism() -> None:
    """Makes TensorFlow repeat its bits, in trainings, attacks and everything else.

    The promise is for one machine, one number of threads and one version of everything; seeds are
    still to be given. It holds for the whole process and cannot be taken back. Trainings become
    somewhat slower (see docs/reliability.md).

    TensorFlow's own `enable_op_determinism`, which is switched on, does not cover two things. A sum
    of three or more tensors starts from the first of them that may be overwritten, so its
    rounding depends on which operations have run; here they run one at a time, each still on all
    cores. And the graph optimizer orders the terms of a sum by addresses in memory, which differ
    from process to process; here it is off.

    Call it first: TensorFlow decides how many operations run at a time when it first computes
    anything. A second call does nothing.

    Raises:
        InputError: TensorFlow has already begun to compute in this process.

    Example:
        >>> from parl_tf.runtime.determinism import enable_determinism
        >>> enable_determinism()  # before any tensor, model or data set is made
    """
    global _enabled
    if _enabled:
        return
    try:
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        raise InputError(
            "TensorFlow has already begun to compute in this process, several operations at a "
            "time, and cannot change to one. Expected determinism to be enabled first: before any "
            "tensor, model or data set is made, in a new process."
        ) from None
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    tf.config.experimental.enable_op_determinism()
    _enabled = True


def is_deterministic() -> bool:
    """Whether `enable_determinism` was called in this process."""
    return _enabled  # TensorFlow tells nobody whether its own switch is on
