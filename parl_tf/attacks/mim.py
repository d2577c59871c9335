"""MIM: BIM with momentum."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method

from parl_tf.attacks.base import Batch, Logits
from parl_tf.attacks.iterative import IterativeAttack
from parl_tf.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIM(IterativeAttack):
    """Momentum iterative method: steps along the sign of an accumulated gradient.

    Attributes:
        decay_factor: What remains of the accumulated gradient at each step. PARL's 0.01 is so
            little that the attack is all but BIM; its authors mean 1. The other attributes are
            those of `IterativeAttack`.

    Raises:
        InputError: A decay factor that is negative or not finite, or what `IterativeAttack`
            refuses.

    Source: Dong et al. 2018, arXiv 1710.06081; CleverHans. Gradients are scaled by their mean
    absolute value, which has the sign of their scaling by the L1 norm.
    """

    name: ClassVar[str] = "mim"
    decay_factor: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.decay_factor >= 0 and math.isfinite(self.decay_factor)):
            raise InputError(
                f"Expected a finite decay_factor of at least 0. Received: {self.decay_factor}."
            )

    def perturb(self, logits_of: Logits, batch: Batch) -> tf.Tensor:
        """Steps from the images themselves."""
        return momentum_iterative_method(
            logits_of,
            batch.images,
            eps=batch.epsilon,
            eps_iter=self.step_for(batch.epsilon),
            nb_iter=tf.constant(self.num_steps),  # a tensor, so that the loop is one graph node
            norm=np.inf,
            clip_min=0.0,
            clip_max=1.0,
            y=batch.labels,
            decay_factor=self.decay_factor,
            sanity_checks=False,  # they fail on NumPy 2; bounds are checked before and after
        )
