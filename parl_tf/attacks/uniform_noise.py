"""Uniform noise: what a random perturbation of the same size does."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from parl_tf.attacks.base import Attack, Batch, check_restarts
from parl_tf.attacks.members import MemberLogits


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformNoise(Attack):
    """Noise drawn uniformly from the ball: a control, which needs no model.

    Attributes:
        restarts: Number of draws.

    Raises:
        InputError: Fewer than one draw.

    Source: Carlini et al. 2019, arXiv 1902.06705, section 4.2.
    """

    name: ClassVar[str] = "uniform-noise"
    random_start: ClassVar[bool] = True
    restarts: int = 1

    def __post_init__(self) -> None:
        check_restarts(self.restarts)

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """The random start itself."""
        return batch.start
