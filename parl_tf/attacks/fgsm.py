"""FGSM: one step along the sign of the gradient."""

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from parl_tf.attacks.base import Batch
from parl_tf.attacks.gradient import GradientAttack
from parl_tf.attacks.members import MemberLogits
from parl_tf.attacks.steps import fast_gradient_method


@dataclasses.dataclass(frozen=True, kw_only=True)
class FGSM(GradientAttack):
    """Fast gradient sign method: one step of epsilon from the clean image.

    Attributes and errors are those of `GradientAttack`.

    Source: Goodfellow et al. 2015, arXiv 1412.6572; CleverHans.
    """

    name: ClassVar[str] = "fgsm"

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """One step."""
        return fast_gradient_method(
            model,
            batch.images,
            batch.epsilon,
            np.inf,
            loss_fn=self.objective,
            clip_min=0.0,
            clip_max=1.0,
            y=batch.labels,
        )
