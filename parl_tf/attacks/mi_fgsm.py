"""MI-FGSM: BIM with momentum, as its authors mean it."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from parl_tf.attacks.base import Batch
from parl_tf.attacks.members import MemberLogits
from parl_tf.attacks.momentum import MomentumAttack


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIFGSM(MomentumAttack):
    """Momentum iterative FGSM with its authors' decay factor of 1.

    Attributes and errors are those of `MomentumAttack`.

    Source: Dong et al. 2018, arXiv 1710.06081; CleverHans.
    """

    name: ClassVar[str] = "mi-fgsm"

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """Steps from the images themselves."""
        return self.accumulate(model, batch)
