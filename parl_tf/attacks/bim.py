"""BIM: FGSM in small steps."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from parl_tf.attacks.base import Logits
from parl_tf.attacks.iterative import IterativeAttack


@dataclasses.dataclass(frozen=True, kw_only=True)
class BIM(IterativeAttack):
    """Basic iterative method: steps along the sign of the gradient from the clean image.

    Attributes are those of `IterativeAttack`.

    Source: Kurakin et al. 2017, arXiv 1607.02533; CleverHans.
    """

    name: ClassVar[str] = "bim"

    def perturb(
        self,
        logits_of: Logits,
        images: tf.Tensor,
        labels: tf.Tensor,
        start: tf.Tensor,
        epsilon: tf.Tensor,
    ) -> tf.Tensor:
        """Steps from the images themselves; arguments as for `Attack.perturb`."""
        return self.descend(logits_of, images, labels, images, epsilon)
