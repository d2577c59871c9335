"""The same bits in every process."""

import tensorflow as tf

_enabled = False


def enable_determinism() -> None:
    """Makes TensorFlow's operations repeat their bits.

    On one machine, with one number of threads and one version of everything. It holds for the
    whole process and for what is traced afterwards, so call it first. Seeds are still to be
    given. Trainings and attacks become somewhat slower.
    """
    global _enabled
    tf.config.experimental.enable_op_determinism()
    _enabled = True


def is_deterministic() -> bool:
    """Whether `enable_determinism` was called in this process."""
    return _enabled  # TensorFlow tells nobody whether its own switch is on
