"""Square: a random search without gradients, from the Adversarial Robustness Toolbox."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import tensorflow as tf

from parl_tf.arguments import check_at_least
from parl_tf.attacks.art.toolbox import Classifier, generate
from parl_tf.attacks.base import Attack, Batch
from parl_tf.attacks.members import MemberLogits
from parl_tf.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square attack: random squares moved to corners of the ball, kept if they lower the margin.

    It uses only the model's predictions, so masked gradients do not mislead it.

    Attributes:
        num_queries: Number of squares tried.
        first_area: Area of the first squares, relative to the image, in (0, 1).
        restarts: Number of searches.

    Raises:
        InputError: Fewer than one query or search, a `first_area` outside (0, 1), or first squares
            that are not smaller than an image.

    Source: Andriushchenko et al. 2020, arXiv 1912.00049.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), mean])
        >>> images = np.full((2, 8, 8, 3), [0.6, 0.5, 0.4], "float32")
        >>> attack = parl_tf.Square(num_queries=100)
        >>> adversarial = attack(model, images, np.array([0, 0]), epsilon=0.3)
        >>> model.predict(adversarial, verbose=0).argmax(axis=1).tolist()
        [1, 1]
    """

    name: ClassVar[str] = "square"
    in_graph: ClassVar[bool] = False
    num_queries: int = 1000
    first_area: float = 0.8
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("num_queries", self.num_queries, 1)
        if not 0 < self.first_area < 1:
            raise InputError(f"Expected first_area in (0, 1). Received: {self.first_area}.")

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """One search."""
        from art.attacks.evasion import SquareAttack

        height, width = batch.images.shape[1:3]
        if round(math.sqrt(self.first_area * height * width)) >= min(height, width):
            raise InputError(
                f"Expected a first_area whose squares are smaller than images of {height} x "
                f"{width} pixels. Received: {self.first_area}."
            )
        attack = SquareAttack(
            Classifier(model, batch),
            norm=np.inf,
            eps=float(batch.epsilon),
            max_iter=self.num_queries,
            p_init=self.first_area,
            nb_restarts=1,
            batch_size=len(batch.images),
            verbose=False,
        )
        return generate(attack, batch)
