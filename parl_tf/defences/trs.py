"""TRS: members whose loss gradients are short, and not aligned."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from parl_tf.arguments import check_at_least, check_choice
from parl_tf.defences.base import Ensemble
from parl_tf.defences.crafting import ascend, kept_state, random_start
from parl_tf.defences.former_arguments import FORMER_ARGUMENTS
from parl_tf.defences.forward import ForwardPass
from parl_tf.errors import InputError
from parl_tf.runtime.replicas import num_replicas, summed
from parl_tf.tensors import LOSS_SCALE, pairwise_cosine, summed_gradients, widened

SMOOTHNESS_SCALES = ("batch", "example")


@keras.saving.register_keras_serializable(package="parl_tf")
class TRS(Ensemble):
    """Transferability reduced smooth ensemble.

    Penalises `cosine`, the mean absolute cosine of pairs of members' loss gradients, and
    `smoothness`, their squared norm: with B for the size of the training batch, 2 / B^2
    times the mean, over members and examples, of the squared length of the gradient of an
    example's loss. Validation takes the B of training: the largest batch of the last epoch, which
    is saved with the model. Before any training it is the size of the evaluated batch. Where an
    optimizer accumulates gradients, each of the batches that it accumulates counts separately.

    Args:
        members: As for `Ensemble`.
        cosine_weight: Weight of the cosine (a).
        smoothness_weight: Weight of the smoothness (b), which is in units of 1 / pixel squared.
        smoothness_scale: "batch" for the authors' scale above: twice the squared length of the
            gradients of the batch's mean loss. "example" omits the factor 2 / B^2; with the
            default weights smoothness then dominates training.
        move_half: Whether smoothness is measured, in training, with every other image of the
            batch, starting with the first, moved to where gradients are longer. The images stay
            within a radius that grows linearly with the epochs of one `fit`, which sets it when
            each begins and reports it as `radius`. The cross-entropy stays on the clean images.
        first_radius: Radius of the L-infinity ball in the first epoch, in pixel units of [0, 1].
        last_radius: The radius that it grows towards.
        num_steps: Number of steps, from a uniform random start.
        batch_size: The B of validation until training sets it. It is saved with the model.
        **options: As for `Ensemble`.

    Raises:
        InputError: What `Ensemble` refuses, an unknown scale, radii outside [0, 1] or no steps.

    Example:
        >>> import parl_tf
        >>> network = dict(input_shape=(8, 8, 3), blocks=1)
        >>> members = [parl_tf.resnet20(10, seed=seed, **network) for seed in (0, 1)]
        >>> ensemble = parl_tf.TRS(members, cosine_weight=40.0, smoothness_weight=2.5)
        >>> [term.name for term in ensemble.term_trackers]
        ['cosine', 'smoothness']

    Source: Yang et al. 2021, arXiv 2104.00671, section 4, with the scale of the authors' code,
    which moves images only with its option `--plus-adv`. Departures: their moved images follow the
    sum of the gradients of all steps so far, and are the second half of the batch; and all of their
    passes, including those of the steps, update the moving statistics; here one does per step.
    """

    former_arguments = FORMER_ARGUMENTS["trs"]

    def __init__(
        self,
        members: Sequence[keras.Model],
        *,
        cosine_weight: float = 40.0,
        smoothness_weight: float = 2.5,
        smoothness_scale: str = "batch",
        move_half: bool = False,
        first_radius: float = 0.01,
        last_radius: float = 0.03,
        num_steps: int = 6,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        check_choice("smoothness_scale", smoothness_scale, SMOOTHNESS_SCALES)
        for radius in (first_radius, last_radius):
            if not 0 <= radius <= 1:
                raise InputError(f"Expected a radius in [0, 1]. Received: {radius}.")
        check_at_least("num_steps", num_steps, 1)
        weights = {"cosine": float(cosine_weight), "smoothness": float(smoothness_weight)}
        reported = ["radius"] if move_half else []
        super().__init__(members, term_weights=weights, reported=reported, **options)
        self.smoothness_scale = smoothness_scale
        self.move_half = bool(move_half)
        self.first_radius = first_radius
        self.last_radius = last_radius
        self.num_steps = num_steps
        self._radius = tf.Variable(first_radius, trainable=False, dtype=tf.float32)
        # Set within steps, by replicas that all have the same value; 0 if unknown.
        self._batch_size = tf.Variable(
            float(batch_size or 0),
            trainable=False,
            dtype=tf.float32,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Sets the radius of the epoch, and resets the size of the last epoch's batches."""
        growth = (self.last_radius - self.first_radius) * epoch / epochs
        self._radius.assign(self.first_radius + growth)
        self._batch_size.assign(0.0)

    def terms(self, forward: ForwardPass) -> dict[str, tf.Tensor]:
        """The mean absolute cosine, and the smoothness."""
        gradients = forward.loss_gradients()
        moving = forward.training and self.move_half
        square = self._square_of_half_moved(forward) if moving else _mean_square(gradients)
        terms = {
            "cosine": tf.reduce_mean(tf.abs(pairwise_cosine(gradients))),
            "smoothness": self._scale(forward, square.dtype) * square,
        }
        if self.move_half:
            terms["radius"] = tf.cast(self._radius, square.dtype)
        return terms

    def _scale(self, forward: ForwardPass, dtype: tf.DType) -> tf.Tensor:
        """The factor on a mean of per-example squares."""
        if self.smoothness_scale == "example":
            return tf.constant(1.0, dtype)
        size = tf.cast(summed(tf.shape(forward.inputs)[0]), tf.float32)
        known = tf.convert_to_tensor(self._batch_size)
        if forward.training:
            self._batch_size.assign(tf.maximum(known, size))
        else:
            size = tf.where(known > 0, known, size)
        return 2 / tf.square(tf.cast(size, dtype))

    def _square_of_half_moved(self, forward: ForwardPass) -> tf.Tensor:
        """The mean square in training mode, without updating the members' statistics."""
        images, labels = forward.inputs, forward.labels
        if num_replicas() > 1 and (images.shape[0] or 0) % 2:
            raise InputError(
                "With move_half every other image is moved. Expected an even number of images on "
                f"each device. Received: {images.shape[0]}."
            )
        with kept_state(self.members):
            moved = self._moved(images[::2], labels[::2])
            points = tf.ensure_shape(tf.concat([moved, images[1::2]], axis=0), images.shape)
            labels = tf.concat([labels[::2], labels[1::2]], axis=0)
            return _mean_square(self._loss_gradients(points, labels))

    def _moved(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Images near the given ones where the members' loss gradients are longer."""
        radius = tf.cast(self._radius, images.dtype)

        def objective(points: tf.Tensor) -> tf.Tensor:
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

    def _loss_gradients(self, points: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
        """For each member the gradient of each example's loss, in training mode."""
        gradients = []
        for index in range(len(self.members)):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(points)
                logits = self.run_member(index, points, training=True)
                losses = self.example_losses(labels, logits)
            gradients += summed_gradients(tape, [losses], points, scale=LOSS_SCALE)
        return gradients

    def get_config(self) -> dict[str, Any]:
        """Members and arguments; the size of the training batch, None if unknown."""
        return {
            **super().get_config(),
            "batch_size": int(self._batch_size.numpy()) or None,
            "cosine_weight": self.term_weights["cosine"],
            "smoothness_weight": self.term_weights["smoothness"],
            "smoothness_scale": self.smoothness_scale,
            "move_half": self.move_half,
            "first_radius": self.first_radius,
            "last_radius": self.last_radius,
            "num_steps": self.num_steps,
        }


def _mean_square(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """Mean over members and examples of the squared length of a gradient, at least float32."""
    gradients = [widened(gradient) for gradient in gradients]
    axes = list(range(1, gradients[0].shape.rank))
    return tf.add_n(
        [tf.reduce_mean(tf.reduce_sum(tf.square(g), axis=axes)) for g in gradients]
    ) / len(gradients)
