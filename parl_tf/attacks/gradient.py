"""Attacks along the gradient of a loss: what the loss is, and how members are fused in it."""

import dataclasses

import tensorflow as tf

from parl_tf.arguments import check_choice
from parl_tf.attacks.base import Attack
from parl_tf.attacks.members import MemberLogits
from parl_tf.tensors import log_mean_probability

LOSSES = ("cross_entropy", "margin")
FUSIONS = ("probabilities", "logits", "losses")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """An attack along the gradient of a loss.

    Attributes:
        loss: What is raised: "cross_entropy", or "margin", by how much the highest other logit
            exceeds that of the true class (Carlini and Wagner 2017, arXiv 1608.04644, f6).
        fusion: How members become one loss: "probabilities", the loss of the logarithm of their
            mean probability; "logits", of their mean logits; "losses", the mean of their losses.
            No difference for a single classifier.

    Raises:
        InputError: An unknown loss or fusion.

    Source of the fusions: Dong et al. 2018, arXiv 1710.06081, section 3.4.
    """

    loss: str = "cross_entropy"
    fusion: str = "probabilities"

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        check_choice("fusion", self.fusion, FUSIONS)

    def objective(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The loss that the attack raises.

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

    def _losses(self, labels, logits):
        """The loss of one classifier's log-probabilities, (batch,)."""
        if self.loss == "cross_entropy":
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        true = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
        highest_other = tf.reduce_max(tf.where(true, logits.dtype.min, logits), axis=-1)
        return highest_other - tf.gather(logits, labels, batch_dims=1)


def fused_logits(model: MemberLogits, images: tf.Tensor) -> tf.Tensor:
    """The logarithm of the members' mean probability, (batch, classes), as logits."""
    return log_mean_probability(tf.unstack(model(images)))
