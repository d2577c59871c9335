"""Attacks of many small steps."""

import dataclasses

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta

from parl_tf.attacks.base import Batch
from parl_tf.attacks.gradient import GradientAttack
from parl_tf.attacks.members import MemberLogits
from parl_tf.attacks.steps import fast_gradient_method
from parl_tf.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterativeAttack(GradientAttack):
    """An attack of several steps of one size.

    Attributes:
        num_steps: Number of steps.
        step_size: Size of a step, in pixel units, at most epsilon; None for epsilon / 5. The
            other attributes are those of `GradientAttack`.

    Raises:
        InputError: Fewer than one step, a step that is not positive, or what `GradientAttack`
            refuses.
    """

    num_steps: int = 50
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps < 1:
            raise InputError(f"Expected num_steps of at least 1. Received: {self.num_steps}.")
        if self.step_size is not None and not 0 < self.step_size <= 1:
            raise InputError(f"Expected step_size in (0, 1]. Received: {self.step_size}.")

    def check_epsilon(self, epsilon: float) -> None:
        """Raises if `epsilon` is not in (0, 1] or smaller than a step."""
        super().check_epsilon(epsilon)
        if self.step_size is not None and self.step_size > epsilon:
            raise InputError(
                f"Expected a step_size of at most epsilon, {epsilon}. Received: {self.step_size}."
            )

    def step_for(self, epsilon: tf.Tensor) -> tf.Tensor:
        """Size of a step in a ball of radius `epsilon`, both float32 scalars in pixel units."""
        return epsilon / 5.0 if self.step_size is None else tf.constant(self.step_size)

    def descend(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """CleverHans's projected gradient descent, from a given start.

        CleverHans's own function draws its start from TensorFlow's global generator, so that a
        restart could not be repeated by itself, and takes epsilon as a Python number only, which
        would cost a graph for each. These are its steps. Arguments and result are those of
        `Attack.perturb`.
        """
        adversarial = batch.start
        for _ in tf.range(self.num_steps):
            adversarial = fast_gradient_method(
                model,
                adversarial,
                self.step_for(batch.epsilon),
                np.inf,
                loss_fn=self.objective,
                clip_min=0.0,
                clip_max=1.0,
                y=batch.labels,
            )
            adversarial = into_ball(adversarial, batch)
        return adversarial


def into_ball(adversarial: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Projects onto the ball and the pixel range, as CleverHans does after a step."""
    perturbation = clip_eta(adversarial - batch.images, np.inf, batch.epsilon)
    return tf.clip_by_value(batch.images + perturbation, 0.0, 1.0)
