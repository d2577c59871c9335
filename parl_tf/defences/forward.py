"""The input of a method's terms: one pass of all members over a batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from parl_tf.tensors import LOSS_SCALE, summed_gradients


class ForwardPass(NamedTuple):
    """The results of one pass of all members over a batch, for a method's terms.

    Attributes:
        inputs: Tensor (batch, height, width, channels), pixels in [0, 1].
        labels: The labels as they were given to `fit`.
        classes: int64 tensor (batch,), the labels as class numbers.
        logits: One tensor (batch, classes) per member, at least float32.
        layers: For each member, the outputs that its `forward_member` returned beside logits.
        example_losses: One tensor (batch,) per member, the compiled loss of each example.
        tape: Persistent tape that watched `inputs` throughout, no longer recording.
        training: Whether members were in training mode.
    """

    inputs: tf.Tensor
    labels: tf.Tensor
    classes: tf.Tensor
    logits: list[tf.Tensor]
    layers: list[list[tf.Tensor]]
    example_losses: list[tf.Tensor]
    tape: tf.GradientTape
    training: bool

    def loss_gradients(self) -> list[tf.Tensor]:
        """For each member the gradient of each example's own loss, of the shape of `inputs`."""
        return summed_gradients(self.tape, self.example_losses, self.inputs, scale=LOSS_SCALE)


def class_numbers(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Labels as int64 (batch,), from numbers or one-hot labels."""
    if labels.shape.rank == 2 and labels.shape[-1] == num_classes:
        return tf.argmax(labels, axis=-1)
    return tf.cast(tf.reshape(labels, (-1,)), tf.int64)


def after(gradients: Sequence[Any], losses: Sequence[tf.Tensor]) -> list[Any]:
    """Gradients that reach an optimizer only after the losses, and all they read, are computed.

    TensorFlow's graph optimizer drops an ordering of reads and writes that data dependencies imply,
    and may then remove these dependencies: the optimizer's one operation on all gradients becomes
    one for each. A pass could then read weights while they are updated if their own gradients do
    not depend on their values, such as PARL's biases.
    """
    with tf.control_dependencies(losses):
        return [gradient if gradient is None else tf.identity(gradient) for gradient in gradients]
