"""MIM, MI-FGSM and M-DI2-FGSM: attacks along an accumulated gradient."""

import dataclasses
import functools
import math
from typing import ClassVar

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import optimize_linear

from parl_tf.attacks.base import Batch
from parl_tf.attacks.gradient import into_ball
from parl_tf.attacks.iterative import IterativeAttack
from parl_tf.attacks.members import MemberLogits
from parl_tf.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentumAttack(IterativeAttack):
    """An attack whose steps follow the sign of an accumulated gradient.

    Attributes:
        decay_factor: Factor on the accumulated gradient at each step. The other attributes are
            those of `IterativeAttack`.

    Raises:
        InputError: A decay factor that is negative or not finite, or what `IterativeAttack`
            refuses.

    Source: Dong et al. 2018, arXiv 1710.06081. As in CleverHans gradients are scaled by their
    mean absolute value; the paper's scaling by the L1 norm gives the same signs.
    """

    decay_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.decay_factor >= 0 and math.isfinite(self.decay_factor)):
            raise InputError(
                f"Expected a finite decay_factor of at least 0. Received: {self.decay_factor}."
            )

    def seen(self, images: tf.Tensor, keys: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """The images shown to the model in a step, differentiable in `images`; here `images`.

        Args:
            images: float32 (batch, height, width, channels), pixels in [0, 1].
            keys: int32 (batch, 2), seeds for the random draws for each image.
            step: int32 scalar, the number of the step.
        """
        return images

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """CleverHans's momentum iterative method, from `batch.start`.

        CleverHans's own function has no argument for the loss. The steps are the same.
        """
        step_size = self.step_for(batch.epsilon)
        adversarial = batch.start
        accumulated = tf.zeros_like(adversarial)
        for step in tf.range(self.num_steps):
            shown = functools.partial(self._answers, model=model, keys=batch.keys, step=step)
            gradient = self.gradient(shown, adversarial, batch.labels)
            scale = tf.reduce_mean(tf.abs(gradient), axis=[1, 2, 3], keepdims=True)
            accumulated = self.decay_factor * accumulated + gradient / tf.maximum(scale, 1e-12)
            adversarial += optimize_linear(accumulated, step_size, np.inf)
            adversarial = into_ball(adversarial, batch)
        return adversarial

    def _answers(
        self, images: tf.Tensor, *, model: MemberLogits, keys: tf.Tensor, step: tf.Tensor
    ) -> tf.Tensor:
        """The model's outputs for the images shown to it."""
        return model(self.seen(images, keys, step))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIM(MomentumAttack):
    """Momentum iterative method with the decay factor of PARL's paper.

    0.01 is so small that the attack is almost BIM; `MIFGSM` has its authors' decay factor.
    Attributes and errors are those of `MomentumAttack`.

    Source: Dong et al. 2018, arXiv 1710.06081; PARL, arXiv 2112.04948, section 5; CleverHans.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), mean])
        >>> images = np.full((2, 8, 8, 3), [0.6, 0.5, 0.4], "float32")
        >>> adversarial = parl_tf.MIM(num_steps=5)(model, images, np.array([0, 0]), epsilon=0.1)
        >>> print(adversarial[0, 0, 0].round(2))
        [0.5 0.6 0.5]
    """

    name: ClassVar[str] = "mim"
    decay_factor: float = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIFGSM(MomentumAttack):
    """Momentum iterative FGSM with its authors' decay factor of 1.

    Attributes and errors are those of `MomentumAttack`.

    Source: Dong et al. 2018, arXiv 1710.06081; CleverHans.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), mean])
        >>> images = np.full((2, 8, 8, 3), [0.6, 0.5, 0.4], "float32")
        >>> adversarial = parl_tf.MIFGSM(num_steps=5)(model, images, np.array([0, 0]), epsilon=0.1)
        >>> print(adversarial[0, 0, 0].round(2))
        [0.5 0.6 0.5]
    """

    name: ClassVar[str] = "mi-fgsm"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MDI2FGSM(MomentumAttack):
    """Momentum diverse inputs iterative FGSM: each step sees randomly shrunk and padded images.

    Attributes:
        smallest: The smallest size that an image may be shrunk to, relative to its own, in
            (0, 1]. Sizes from there to its own are equally likely.
        probability: How often an image is transformed, in [0, 1].
        restarts: Number of runs, each with its own random draws. The other attributes are those
            of `MomentumAttack`.

    Raises:
        InputError: A `smallest`, `probability` or `restarts` outside these ranges, or what
            `MomentumAttack` refuses.

    Source: Xie et al. 2019, arXiv 1803.06978. There images are enlarged (299 to 330 pixels); a
    network of fixed input size needs them shrunk and padded with zeros instead, by the same ratio.
    Here the size, the position and the decision are drawn for each image, not for a batch.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), mean])
        >>> images = np.full((2, 8, 8, 3), [0.6, 0.5, 0.4], "float32")
        >>> attack = parl_tf.MDI2FGSM(num_steps=20, smallest=0.8)
        >>> adversarial = attack(model, images, np.array([0, 0]), epsilon=0.1)
        >>> model.predict(adversarial, verbose=0).argmax(axis=1).tolist()
        [1, 1]
    """

    name: ClassVar[str] = "mdi2-fgsm"
    smallest: float = 0.9
    probability: float = 0.5
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.smallest <= 1:
            raise InputError(f"Expected smallest in (0, 1]. Received: {self.smallest}.")
        if not 0 <= self.probability <= 1:
            raise InputError(f"Expected probability in [0, 1]. Received: {self.probability}.")

    def seen(self, images: tf.Tensor, keys: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Each image shrunk to a random size and put at a random position, or unchanged."""
        seeds = tf.stack([keys[:, 0], keys[:, 1] + step], axis=1)
        draws = tf.map_fn(
            lambda seed: tf.random.stateless_uniform([4], seed),
            seeds,
            fn_output_signature=tf.float32,
        )
        height, width = images.shape[1], images.shape[2]
        rows = shrinking_matrices(height, self._sizes(height, draws[:, 0]), draws[:, 1])
        columns = shrinking_matrices(width, self._sizes(width, draws[:, 0]), draws[:, 2])
        moved = tf.einsum("bip,bpqc->biqc", rows, images)
        moved = tf.einsum("bjq,biqc->bijc", columns, moved)
        transformed = draws[:, 3] < self.probability
        return tf.where(transformed[:, None, None, None], moved, images)

    def _sizes(self, size: int, draws: tf.Tensor) -> tf.Tensor:
        """From draws in [0, 1) to whole numbers of pixels, each as likely as another."""
        least = max(round(self.smallest * size), 1)
        return least + tf.floor(draws * (size - least + 1))


def shrinking_matrices(size: int, shrunk: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Matrices that shrink a line of pixels by bilinear interpolation and pad it with zeros.

    Args:
        size: Number of pixels.
        shrunk: float32 (batch,), the new number of pixels, whole and from 1 to `size`.
        place: float32 (batch,), in [0, 1]: how far into the free pixels the line begins.

    Returns:
        float32 (batch, size, size): new pixels from old ones, with half-pixel centres and
        without antialiasing, as `tf.image.resize` does by default.
    """
    offset = tf.floor(place * (size - shrunk + 1))
    offset = tf.minimum(offset, size - shrunk)
    new = tf.range(size, dtype=tf.float32) - offset[:, None]
    inside = (new >= 0) & (new < shrunk[:, None])
    old = (new + 0.5) * (size / shrunk)[:, None] - 0.5
    old = tf.clip_by_value(old, 0.0, size - 1.0)
    distance = tf.abs(old[:, :, None] - tf.range(size, dtype=tf.float32))
    return tf.where(inside[:, :, None], tf.maximum(1.0 - distance, 0.0), 0.0)
