"""MIM: BIM with momentum, as little of it as PARL's paper has."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from parl_tf.attacks.base import Batch
from parl_tf.attacks.members import MemberLogits
from parl_tf.attacks.momentum import MomentumAttack


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIM(MomentumAttack):
    """Momentum iterative method with the decay factor of PARL's paper.

    0.01 is so little that the attack is all but BIM; `MIFGSM` has that of its authors. Attributes
    and errors are those of `MomentumAttack`.

    Source: Dong et al. 2018, arXiv 1710.06081; PARL, arXiv 2112.04948, section 5; CleverHans.
    """

    name: ClassVar[str] = "mim"
    decay_factor: float = 0.01

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """Steps from the images themselves."""
        return self.accumulate(model, batch)
