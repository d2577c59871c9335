"""BIM: FGSM in small steps."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from parl_tf.attacks.base import Batch
from parl_tf.attacks.iterative import IterativeAttack
from parl_tf.attacks.members import MemberLogits


@dataclasses.dataclass(frozen=True, kw_only=True)
class BIM(IterativeAttack):
    """Basic iterative method: steps along the sign of the gradient from the clean image.

    Attributes and errors are those of `IterativeAttack`.

    Source: Kurakin et al. 2017, arXiv 1607.02533; CleverHans.
    """

    name: ClassVar[str] = "bim"

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """Steps from the images themselves."""
        return self.descend(model, batch)
