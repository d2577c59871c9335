"""Attacks along the gradient of a loss: the loss, the fusion of members, and one step."""

import dataclasses

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta, optimize_linear

from parl_tf.arguments import check_choice
from parl_tf.attacks.base import Attack, Batch
from parl_tf.attacks.members import MemberLogits
from parl_tf.tensors import log_mean_probability

LOSSES = ("cross_entropy", "margin")
FUSIONS = ("probabilities", "logits", "losses")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """An attack along the gradient of a loss.

    Attributes:
        loss: The loss to maximise: "cross_entropy", or "margin", by how much the highest other
            logit exceeds that of the true class (Carlini and Wagner 2017, arXiv 1608.04644, f6).
        fusion: How members are fused into one loss: "probabilities", the loss of the logarithm of
            their mean probability; "logits", of their mean logits; "losses", the mean of their
            losses. For a single classifier all three are the same.

    Raises:
        InputError: An unknown loss or fusion.

    Source of the fusions: Dong et al. 2018, arXiv 1710.06081, section 3.4.
    """

    loss: str = "cross_entropy"
    fusion: str = "probabilities"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("loss", self.loss, LOSSES)
        check_choice("fusion", self.fusion, FUSIONS)

    def objective(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The loss that the attack maximises.

        Args:
            labels: int64 (batch,), the true classes.
            logits: (members, batch, classes), each member's log-probabilities.

        Returns:
            Tensor (batch,).
        """
        if self.fusion == "losses":
            members = tf.shape(logits)[0]
            flat = tf.reshape(logits, (-1, logits.shape[-1]))
            losses = self._losses(tf.tile(labels, [members]), flat)
            return tf.reduce_mean(tf.reshape(losses, (members, -1)), axis=0)
        if self.fusion == "logits":
            return self._losses(labels, tf.nn.log_softmax(tf.reduce_mean(logits, axis=0)))
        return self._losses(labels, log_mean_probability(tf.unstack(logits)))

    def _losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The loss of one classifier's log-probabilities, (batch,)."""
        if self.loss == "cross_entropy":
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        true = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
        highest_other = tf.reduce_max(tf.where(true, logits.dtype.min, logits), axis=-1)
        return highest_other - tf.gather(logits, labels, batch_dims=1)

    def gradient(self, model: MemberLogits, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Gradient of each image's loss with respect to its pixels.

        Args:
            model: From images to the members' log-probabilities, (members, batch, classes).
            images: float32 (batch, height, width, channels), pixels in [0, 1].
            labels: int64 (batch,), the true classes.

        Returns:
            float32 tensor of the shape of `images`.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            losses = self.objective(labels, model(images))
        return tape.gradient(losses, images)


def gradient_step(images: tf.Tensor, gradient: tf.Tensor, step_size: tf.Tensor) -> tf.Tensor:
    """One step along the sign of the gradient, clipped to the pixel range.

    CleverHans's `fast_gradient_method` on a gradient computed beforehand. CleverHans's own computes
    it in one `tf.function` for all models, which keeps a graph of each as long as the process
    lives.

    Args:
        images: float32 (batch, height, width, channels), pixels in [0, 1].
        gradient: Tensor of the same shape.
        step_size: float32 scalar, in pixel units.

    Returns:
        Tensor of the shape of `images`.
    """
    return tf.clip_by_value(images + optimize_linear(gradient, step_size, np.inf), 0.0, 1.0)


def into_ball(images: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Projects onto the ball and the pixel range, as CleverHans does after a step."""
    perturbation = clip_eta(images - batch.images, np.inf, batch.epsilon)
    return tf.clip_by_value(batch.images + perturbation, 0.0, 1.0)


def fused_logits(model: MemberLogits, images: tf.Tensor) -> tf.Tensor:
    """The logarithm of the members' mean probability, (batch, classes), as logits."""
    return log_mean_probability(tf.unstack(model(images)))
