"""FGSM, BIM and PGD: one or many steps along the sign of the gradient."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from parl_tf.arguments import check_at_least
from parl_tf.attacks.base import Batch
from parl_tf.attacks.gradient import GradientAttack, gradient_step, into_ball
from parl_tf.attacks.members import MemberLogits
from parl_tf.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FGSM(GradientAttack):
    """Fast gradient sign method: one step of epsilon from the clean image.

    Attributes and errors are those of `GradientAttack`.

    Source: Goodfellow et al. 2015, arXiv 1412.6572; CleverHans.

    Example:
        A classifier that says which colour of an image is brightest:

        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), mean])
        >>> images = np.full((2, 8, 8, 3), [0.6, 0.5, 0.4], "float32")
        >>> adversarial = parl_tf.FGSM()(model, images, np.array([0, 0]), epsilon=0.1)
        >>> print(adversarial[0, 0, 0].round(2))  # less of the true class's colour
        [0.5 0.6 0.5]
    """

    name: ClassVar[str] = "fgsm"

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """One step."""
        gradient = self.gradient(model, batch.images, batch.labels)
        return gradient_step(batch.images, gradient, batch.epsilon)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterativeAttack(GradientAttack):
    """An attack of several steps of one size along the sign of the gradient.

    Attributes:
        num_steps: Number of steps.
        step_size: Size of a step, in pixel units, at most epsilon; None for epsilon / 5. The
            other attributes are those of `GradientAttack`.

    Raises:
        InputError: Fewer than one step, a step size outside (0, 1], or what `GradientAttack`
            refuses.
    """

    num_steps: int = 50
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("num_steps", self.num_steps, 1)
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

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """CleverHans's projected gradient descent, from `batch.start`.

        CleverHans's own function draws its start from TensorFlow's global generator, so a restart
        could not be repeated by itself, and takes epsilon only as a Python number, which would need
        a graph for each strength. The steps are the same.
        """
        step_size = self.step_for(batch.epsilon)
        adversarial = batch.start
        for _ in tf.range(self.num_steps):
            gradient = self.gradient(model, adversarial, batch.labels)
            adversarial = into_ball(gradient_step(adversarial, gradient, step_size), batch)
        return adversarial


@dataclasses.dataclass(frozen=True, kw_only=True)
class BIM(IterativeAttack):
    """Basic iterative method: steps along the sign of the gradient from the clean image.

    Attributes and errors are those of `IterativeAttack`.

    Source: Kurakin et al. 2017, arXiv 1607.02533; CleverHans.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), mean])
        >>> images = np.full((2, 8, 8, 3), [0.6, 0.5, 0.4], "float32")
        >>> attack = parl_tf.BIM(num_steps=2, step_size=0.02)
        >>> adversarial = attack(model, images, np.array([0, 0]), epsilon=0.1)
        >>> print(adversarial[0, 0, 0].round(2))
        [0.56 0.54 0.44]
    """

    name: ClassVar[str] = "bim"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD(IterativeAttack):
    """Projected gradient descent: steps along the sign of the gradient from random starts.

    Attributes:
        restarts: Number of random starts. The other attributes are those of `IterativeAttack`.

    Raises:
        InputError: Fewer than one restart, or what `IterativeAttack` refuses.

    Source: Madry et al. 2018, arXiv 1706.06083; CleverHans.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), mean])
        >>> images = np.full((2, 8, 8, 3), [0.6, 0.5, 0.4], "float32")
        >>> craft = parl_tf.PGD(num_steps=20, restarts=2).prepare(model)
        >>> runs = [craft(images, np.array([0, 0]), epsilon=0.1, restart=r) for r in (0, 1)]
        >>> [model.predict(run, verbose=0).argmax(axis=1).tolist() for run in runs]
        [[1, 1], [1, 1]]
    """

    name: ClassVar[str] = "pgd"
    random_start: ClassVar[bool] = True
    restarts: int = 10
