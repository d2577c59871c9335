"""HopSkipJump: an attack on decisions alone, from the Adversarial Robustness Toolbox."""

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from parl_tf.arguments import check_at_least
from parl_tf.attacks.art.toolbox import Classifier, generate
from parl_tf.attacks.base import Attack, Batch
from parl_tf.attacks.members import MemberLogits


@dataclasses.dataclass(frozen=True, kw_only=True)
class HopSkipJump(Attack):
    """HopSkipJump: walks along the decision boundary towards the image.

    It uses only the model's decisions. The example that it finds may lie outside the ball; it is
    then projected onto it, where it may fail.

    Attributes:
        num_steps: Number of steps along the boundary.
        num_queries: Maximum number of queries to estimate a direction, at least 10.
        num_starts: How many random images are tried as a misclassified start.
        restarts: Number of runs.

    Raises:
        InputError: Fewer than one step, start or run, or fewer than 10 queries.

    Source: Chen et al. 2020, arXiv 1904.02144. Only correctly classified images are changed.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), mean])
        >>> images = np.full((2, 8, 8, 3), [0.6, 0.5, 0.4], "float32")
        >>> attack = parl_tf.HopSkipJump(num_steps=3, num_queries=50)
        >>> adversarial = attack(model, images, np.array([0, 0]), epsilon=0.2)
        >>> model.predict(adversarial, verbose=0).argmax(axis=1).tolist()
        [1, 1]
    """

    name: ClassVar[str] = "hop-skip-jump"
    in_graph: ClassVar[bool] = False
    num_steps: int = 20
    num_queries: int = 1000
    num_starts: int = 100
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("num_steps", self.num_steps, 1)
        check_at_least("num_queries", self.num_queries, 10)
        check_at_least("num_starts", self.num_starts, 1)

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """One walk for each correctly classified image."""
        from art.attacks.evasion import HopSkipJump as ToolboxHopSkipJump

        classifier = Classifier(model, batch)
        images, labels = batch.images.numpy(), batch.labels.numpy()
        starts, found = self._starts(classifier, batch)
        if not found.any():
            return batch.images
        attack = ToolboxHopSkipJump(
            classifier,
            batch_size=max(self.num_queries, 64),
            norm=np.inf,
            max_iter=self.num_steps,
            max_eval=self.num_queries,
            init_eval=min(100, self.num_queries),
            verbose=False,
        )
        moved = batch._replace(images=tf.constant(images[found]), labels=tf.constant(labels[found]))
        images = images.copy()
        images[found] = generate(attack, moved, x_adv_init=starts[found]).numpy()
        return tf.constant(images)

    def _starts(self, classifier: Classifier, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Random starts classified as another class, and for which images one was found.

        The toolbox would draw them from a generator that cannot be seeded.
        """
        images, labels, keys = (part.numpy() for part in (batch.images, batch.labels, batch.keys))
        generators = [np.random.default_rng(key.view("uint32")) for key in keys]
        starts, found = images.copy(), np.zeros(len(images), bool)
        wanted = np.argmax(classifier.predict(images), axis=1) == labels
        for _ in range(self.num_starts):
            if not (wanted & ~found).any():
                break
            drawn = np.array([g.uniform(0, 1, images.shape[1:]) for g in generators], "float32")
            other = np.argmax(classifier.predict(drawn), axis=1) != labels
            new = wanted & ~found & other
            starts[new] = drawn[new]
            found |= new
        return starts, found
