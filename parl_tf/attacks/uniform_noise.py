"""Uniform noise: the effect of a random perturbation of the same size."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from parl_tf.attacks.base import Attack, Batch
from parl_tf.attacks.members import MemberLogits


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformNoise(Attack):
    """Noise drawn uniformly from the ball: a control, which needs no model.

    Attributes:
        restarts: Number of draws.

    Raises:
        InputError: Fewer than one draw.

    Source: Carlini et al. 2019, arXiv 1902.06705, section 4.2.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), mean])
        >>> images = np.full((2, 8, 8, 3), [0.6, 0.5, 0.4], "float32")
        >>> noisy = parl_tf.UniformNoise()(model, images, np.array([0, 0]), epsilon=0.1)
        >>> model.predict(noisy, verbose=0).argmax(axis=1).tolist()  # which PGD changes
        [0, 0]
    """

    name: ClassVar[str] = "uniform-noise"
    random_start: ClassVar[bool] = True
    restarts: int = 1

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """The random start itself."""
        return batch.start
