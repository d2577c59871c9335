"""The same bits in every process."""

import tensorflow as tf


def enable_determinism() -> None:
    """Makes TensorFlow's operations, and the graphs that they are put into, repeat their bits.

    On one machine, with one number of threads and one version of everything. It holds for the
    whole process and for what is traced afterwards, so call it first. Seeds are still to be
    given. Trainings and attacks become somewhat slower.

    TensorFlow's own switch is not enough: its graph optimizer (Grappler) orders the sums of
    larger gradients anew in every process, so PARL's weights differed in the last digit after
    one step. It is turned off.
    """
    tf.config.experimental.enable_op_determinism()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def is_deterministic() -> bool:
    """Whether `enable_determinism` was called in this process."""
    # TensorFlow tells nobody whether its own switch is on, but does tell of the optimizer.
    return bool(tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer"))
