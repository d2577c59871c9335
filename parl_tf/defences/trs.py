"""TRS: members whose loss gradients are short, and not aligned."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from parl_tf.defences.base import Ensemble
from parl_tf.defences.crafting import ascend, kept_state, random_start
from parl_tf.defences.forward import ForwardPass
from parl_tf.errors import InputError
from parl_tf.gradients import LOSS_SCALE, pairwise_cosine, summed_gradients
from parl_tf.replicas import num_replicas


@keras.saving.register_keras_serializable(package="parl_tf")
class TRS(Ensemble):
    """Transferability reduced smooth ensemble.

    Penalises `cosine`, the mean absolute cosine of pairs of members' loss gradients, and
    `smoothness`, the mean over members and examples of the squared length of an example's loss
    gradient. In training, every other image of the batch, from the first on, is moved for
    smoothness to where gradients are longer, within a `radius` that grows linearly with
    the epochs of one `fit`, which sets it as each begins. In validation all images stay as they
    are.

    Args:
        members: As for `Ensemble`.
        cosine_weight: Weight of the cosine (a).
        smoothness_weight: Weight of the smoothness (b), which is in units of 1 / pixel squared.
        first_radius: Radius of the L-infinity ball in the first epoch, in pixel units of [0, 1].
        last_radius: The radius that it grows towards.
        num_steps: Number of steps, from a uniform random start.
        **options: As for `Ensemble`.

    Raises:
        InputError: What `Ensemble` refuses, radii outside [0, 1] or no steps.

    Source: Yang et al. 2021, arXiv 2104.00671, section 4. Departure: gradients are those of each
    example's own loss; the authors' code takes those of the batch's mean, which makes the
    smoothness term smaller by the square of the batch size.
    """

    def __init__(
        self,
        members: Sequence[keras.Model],
        *,
        cosine_weight: float = 40.0,
        smoothness_weight: float = 2.5,
        first_radius: float = 0.01,
        last_radius: float = 0.03,
        num_steps: int = 6,
        **options: Any,
    ) -> None:
        for radius in (first_radius, last_radius):
            if not 0 <= radius <= 1:
                raise InputError(f"Expected a radius in [0, 1]. Received: {radius}.")
        if num_steps < 1:
            raise InputError(f"Expected num_steps of at least 1. Received: {num_steps}.")
        weights = {"cosine": float(cosine_weight), "smoothness": float(smoothness_weight)}
        super().__init__(members, term_weights=weights, reported=["radius"], **options)
        self.first_radius = first_radius
        self.last_radius = last_radius
        self.num_steps = num_steps
        self._radius = tf.Variable(first_radius, trainable=False, dtype=tf.float32)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Grows the radius."""
        growth = (self.last_radius - self.first_radius) * epoch / epochs
        self._radius.assign(self.first_radius + growth)

    def terms(self, forward: ForwardPass) -> dict[str, tf.Tensor]:
        """The mean absolute cosine, and the smoothness."""
        gradients = forward.loss_gradients()
        smoothness = (
            self._smoothness_of_half_moved(forward) if forward.training else _mean_square(gradients)
        )
        return {
            "cosine": tf.reduce_mean(tf.abs(pairwise_cosine(gradients))),
            "smoothness": smoothness,
            "radius": tf.cast(self._radius, smoothness.dtype),
        }

    def _smoothness_of_half_moved(self, forward):
        """The smoothness in training mode, the members' statistics left as they were."""
        images, labels = forward.inputs, forward.labels
        if num_replicas() > 1 and (images.shape[0] or 0) % 2:
            raise InputError(
                "Every other image is moved. Expected batches whose parts on the devices are "
                f"even. Received: parts of {images.shape[0]}."
            )
        with kept_state(self.members):
            moved = self._moved(images[::2], labels[::2])
            points = tf.ensure_shape(tf.concat([moved, images[1::2]], axis=0), images.shape)
            labels = tf.concat([labels[::2], labels[1::2]], axis=0)
            return _mean_square(self._loss_gradients(points, labels))

    def _moved(self, images, labels):
        """Images near the given ones where the members' loss gradients are longer."""
        radius = tf.cast(self._radius, images.dtype)

        def objective(points):
            return tf.add_n(
                [tf.reduce_sum(tf.square(g)) for g in self._loss_gradients(points, labels)]
            )

        return ascend(
            objective,
            random_start(images, radius, self.step_seed("smoothness")),
            images,
            epsilon=radius,
            step_size=radius / 3,
            num_steps=self.num_steps,
        )

    def _loss_gradients(self, points, labels):
        """For each member the gradient of each example's loss, in training mode."""
        gradients = []
        for member in self.members:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(points)
                losses = self.example_losses(labels, member(points, training=True))
            gradients += summed_gradients(tape, [losses], points, scale=LOSS_SCALE)
        return gradients

    def get_config(self) -> dict[str, Any]:
        """Members and arguments."""
        return {
            **super().get_config(),
            "cosine_weight": self.term_weights["cosine"],
            "smoothness_weight": self.term_weights["smoothness"],
            "first_radius": self.first_radius,
            "last_radius": self.last_radius,
            "num_steps": self.num_steps,
        }


def _mean_square(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """Mean over members and examples of the squared length of a gradient."""
    axes = list(range(1, gradients[0].shape.rank))
    return tf.add_n(
        [tf.reduce_mean(tf.reduce_sum(tf.square(g), axis=axes)) for g in gradients]
    ) / len(gradients)
