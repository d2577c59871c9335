"""Attacks along an accumulated gradient."""

import dataclasses
import math

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import optimize_linear

from parl_tf.attacks.base import Batch
from parl_tf.attacks.iterative import IterativeAttack, into_ball
from parl_tf.attacks.members import MemberLogits
from parl_tf.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentumAttack(IterativeAttack):
    """An attack whose steps follow the sign of an accumulated gradient.

    Attributes:
        decay_factor: What remains of the accumulated gradient at each step. The other attributes
            are those of `IterativeAttack`.

    Raises:
        InputError: A decay factor that is negative or not finite, or what `IterativeAttack`
            refuses.

    Source: Dong et al. 2018, arXiv 1710.06081. As in CleverHans gradients are scaled by their
    mean absolute value; the paper's scaling by the L1 norm gives the same signs.
    """

    decay_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.decay_factor >= 0 and math.isfinite(self.decay_factor)):
            raise InputError(
                f"Expected a finite decay_factor of at least 0. Received: {self.decay_factor}."
            )

    def seen(self, images: tf.Tensor, keys: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """What the model is shown of the images in a step, differentiably: the images.

        Args:
            images: float32 (batch, height, width, channels), pixels in [0, 1].
            keys: int32 (batch, 2), seeds for what is drawn for each image.
            step: int32 scalar, the number of the step.
        """
        return images

    def accumulate(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """CleverHans's momentum iterative method, from a given start.

        CleverHans's own function has no argument for the loss. These are its steps. Arguments
        and result are those of `Attack.perturb`.
        """
        adversarial = batch.start
        accumulated = tf.zeros_like(adversarial)
        for step in tf.range(self.num_steps):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(adversarial)
                logits = model(self.seen(adversarial, batch.keys, step))
                loss = self.objective(batch.labels, logits)
            gradient = tape.gradient(loss, adversarial)
            scale = tf.reduce_mean(tf.abs(gradient), axis=[1, 2, 3], keepdims=True)
            gradient = gradient / tf.maximum(scale, 1e-12)
            accumulated = self.decay_factor * accumulated + gradient
            adversarial += optimize_linear(accumulated, self.step_for(batch.epsilon), np.inf)
            adversarial = into_ball(adversarial, batch)
        return adversarial
