"""APGD: PGD that adapts its step size, from the Adversarial Robustness Toolbox."""

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from parl_tf.arguments import check_at_least
from parl_tf.attacks.art.toolbox import Classifier, generate
from parl_tf.attacks.base import Batch
from parl_tf.attacks.gradient import GradientAttack
from parl_tf.attacks.members import MemberLogits


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGD(GradientAttack):
    """Auto-PGD: projected gradient descent with momentum and a step size that adapts.

    Attributes:
        num_steps: Number of steps; the first is 2 epsilon long.
        restarts: Number of random starts. The other attributes are those of `GradientAttack`.

    Raises:
        InputError: Fewer than one step or start, or what `GradientAttack` refuses.

    Source: Croce and Hein 2020, arXiv 2003.01690. Misclassified images are returned unchanged.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), mean])
        >>> images = np.full((2, 8, 8, 3), [0.6, 0.5, 0.4], "float32")
        >>> adversarial = parl_tf.APGD(num_steps=10)(model, images, np.array([0, 0]), epsilon=0.1)
        >>> model.predict(adversarial, verbose=0).argmax(axis=1).tolist()
        [1, 1]
    """

    name: ClassVar[str] = "apgd"
    in_graph: ClassVar[bool] = False
    num_steps: int = 100
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("num_steps", self.num_steps, 1)

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """One run."""
        from art.attacks.evasion import AutoProjectedGradientDescent

        epsilon = float(batch.epsilon)
        attack = AutoProjectedGradientDescent(
            Classifier(model, batch, self.objective),
            norm=np.inf,
            eps=epsilon,
            eps_step=2 * epsilon,
            max_iter=self.num_steps,
            nb_random_init=1,
            batch_size=len(batch.images),
            verbose=False,
        )
        return generate(attack, batch)
