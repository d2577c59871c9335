"""PGD: BIM from random starts."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from parl_tf.attacks.base import Batch, check_restarts
from parl_tf.attacks.iterative import IterativeAttack
from parl_tf.attacks.members import MemberLogits


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD(IterativeAttack):
    """Projected gradient descent: steps along the sign of the gradient from random starts.

    Attributes:
        restarts: Number of random starts. The other attributes are those of `IterativeAttack`.

    Raises:
        InputError: Fewer than one restart, or what `IterativeAttack` refuses.

    Source: Madry et al. 2018, arXiv 1706.06083; CleverHans.
    """

    name: ClassVar[str] = "pgd"
    random_start: ClassVar[bool] = True
    restarts: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_restarts(self.restarts)

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """Steps from the random start."""
        return self.descend(model, batch)
