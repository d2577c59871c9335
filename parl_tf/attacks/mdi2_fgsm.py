"""M-DI2-FGSM: momentum and input diversity, an attack made for transfer."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from parl_tf.attacks.base import Batch, check_restarts
from parl_tf.attacks.members import MemberLogits
from parl_tf.attacks.momentum import MomentumAttack
from parl_tf.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MDI2FGSM(MomentumAttack):
    """Momentum diverse inputs iterative FGSM: each step sees randomly shrunk and padded images.

    Attributes:
        smallest: The smallest size that an image may be shrunk to, relative to its own, in
            (0, 1]; drawn uniformly from the sizes from there to its own.
        probability: How often an image is transformed, in [0, 1].
        restarts: Number of runs, each with draws of its own. The other attributes are those of
            `MomentumAttack`.

    Raises:
        InputError: A number outside these values, or what `MomentumAttack` refuses.

    Source: Xie et al. 2019, arXiv 1803.06978. There images are enlarged (299 to 330 pixels); a
    network of one input size needs them shrunk and padded with zeros instead, by the same ratio.
    Here the size, the place and the decision are drawn for each image, not for a batch.
    """

    name: ClassVar[str] = "mdi2-fgsm"
    smallest: float = 0.9
    probability: float = 0.5
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_restarts(self.restarts)
        if not 0 < self.smallest <= 1:
            raise InputError(f"Expected smallest in (0, 1]. Received: {self.smallest}.")
        if not 0 <= self.probability <= 1:
            raise InputError(f"Expected probability in [0, 1]. Received: {self.probability}.")

    def seen(self, images: tf.Tensor, keys: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Each image shrunk to a random size and put at a random place, or as it is."""
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

    def _sizes(self, size, draws):
        """From draws in [0, 1) to whole numbers of pixels, each as likely as another."""
        least = max(round(self.smallest * size), 1)
        return least + tf.floor(draws * (size - least + 1))

    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """Steps from the images themselves."""
        return self.accumulate(model, batch)


def shrinking_matrices(size: int, shrunk: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Matrices that shrink a line of pixels by bilinear interpolation and pad it with zeros.

    Args:
        size: Number of pixels.
        shrunk: float32 (batch,), the new number of pixels, whole and from 1 to `size`.
        place: float32 (batch,), in [0, 1]: where in the free pixels the line begins.

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
