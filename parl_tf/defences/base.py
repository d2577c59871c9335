"""The ensemble every training method is a kind of; by itself the unprotected one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from parl_tf.classifiers import check_members
from parl_tf.data import check_images
from parl_tf.errors import InputError
from parl_tf.fusion import Vote, log_mean_probability, majority_vote
from parl_tf.registry import check_choice


class ForwardPass(NamedTuple):
    """What one pass of all members over a batch left behind, for a method's terms.

    Attributes:
        inputs: Tensor (batch, height, width, channels), pixels in [0, 1].
        labels: The labels as they were given to `fit`.
        logits: One tensor (batch, classes) a member.
        layers: For each member, the outputs that its `forward_member` returned beside logits.
        cross_entropies: One scalar a member.
        tape: Persistent tape that watched `inputs` throughout, no longer recording.
    """

    inputs: tf.Tensor
    labels: tf.Tensor
    logits: list[tf.Tensor]
    layers: list[list[tf.Tensor]]
    cross_entropies: list[tf.Tensor]
    tape: tf.GradientTape


@keras.saving.register_keras_serializable(package="parl_tf")
class Ensemble(keras.Model):
    """Classifiers trained together and asked together; the unprotected ensemble.

    The training loss is the members' cross-entropy, plus the weighted terms of a method, plus the
    members' own regularisation. `compile`, `fit`, `evaluate`, `predict` and `save` are Keras's;
    compile with a loss object that takes logits. A call returns the logarithm of the members'
    mean probability, which such a loss and every attack take as logits. `fit` reports `loss`,
    `cross_entropy`, the method's terms before weighting, and `vote_accuracy`.

    A method is a subclass that overrides `terms`, and `forward_member` if its terms need more
    than logits.

    Args:
        members: At least two different functional Keras classifiers of the same input and number
            of classes, each from pixels in [0, 1] to logits.
        accuracy_weight: Weight of the cross-entropy.
        member_reduction: How the members' cross-entropies become one: "sum" or "mean".
        term_weights: Weight of each term of the method, by name. For subclasses.
        name: Name of the model.

    Raises:
        InputError: Members that are not as described, or an argument outside its values.

    Source: PARL, arXiv 2112.04948, section 4.2 (the loss without its second term).
    """

    def __init__(
        self,
        members: Sequence[keras.Model],
        *,
        accuracy_weight: float = 1.0,
        member_reduction: str = "sum",
        term_weights: Mapping[str, float] | None = None,
        name: str | None = None,
    ) -> None:
        members = list(members)
        check_members(members)
        check_choice("member_reduction", member_reduction, ("sum", "mean"))
        weights = {"accuracy_weight": accuracy_weight, **(term_weights or {})}
        if not all(math.isfinite(weight) for weight in weights.values()):
            raise InputError(f"Expected finite weights. Received: {weights}.")
        super().__init__(name=name)
        self.members = members
        self.accuracy_weight = float(accuracy_weight)
        self.member_reduction = member_reduction
        self.term_weights = dict(term_weights or {})
        self.cross_entropy_tracker = keras.metrics.Mean(name="cross_entropy")
        self.term_trackers = [keras.metrics.Mean(name=term) for term in self.term_weights]
        self.vote_tracker = keras.metrics.Mean(name="vote_accuracy")
        # The members are built and there is nothing else to build; without this, a model trained
        # by `train_step` alone would lose its optimizer state when saved.
        self.built = True

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape (height, width, channels) of one image."""
        return tuple(self.members[0].input_shape[1:])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.members[0].output_shape[-1]

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Logarithm of the members' mean probability, (batch, classes)."""
        return log_mean_probability(self.member_logits(inputs, training=training))

    def member_logits(self, inputs: tf.Tensor, training: bool | None = None) -> list[tf.Tensor]:
        """Each member's logits, one tensor (batch, classes) a member."""
        return [member(inputs, training=training) for member in self.members]

    def vote(self, inputs: tf.Tensor) -> Vote:
        """Majority vote of the members on a batch of images, and where it was tied."""
        return majority_vote(self.member_logits(inputs, training=False))

    def predict_classes(self, images: Any, batch_size: int = 250) -> Any:
        """Majority vote of the members on any number of images.

        Args:
            images: Array (n, height, width, channels), pixels in [0, 1].
            batch_size: Images at a time.

        Returns:
            int64 array (n,), the winning classes.

        Raises:
            InputError: Images outside these values.
        """
        images = check_images(images)
        if not hasattr(self, "_vote_graph"):
            self._vote_graph = tf.function(self.vote, reduce_retracing=True)
        batches = tf.data.Dataset.from_tensor_slices(images).batch(batch_size)
        return tf.concat([self._vote_graph(batch).labels for batch in batches], axis=0).numpy()

    def forward_member(
        self, index: int, inputs: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Runs one member, under the tape that watches the inputs.

        Args:
            index: Which member.
            inputs: Tensor (batch, height, width, channels), pixels in [0, 1].
            training: Whether in training mode.

        Returns:
            Its logits (batch, classes), and whatever other outputs `terms` needs.
        """
        return self.members[index](inputs, training=training), []

    def terms(self, forward: ForwardPass) -> dict[str, tf.Tensor]:
        """The method's additions to the loss, as scalars before weighting.

        Args:
            forward: The pass over the batch. Gradients with respect to its inputs come from its
                tape, and are differentiable.

        Returns:
            A scalar for each name in `term_weights`.
        """
        return {}

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the graph of `train_step`, after the optimizer's variables.

        A graph that makes variables while it is traced is traced a second time, and tracing takes
        longer than many steps.
        """
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of the optimizer on one batch."""
        inputs, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss, forward, terms = self._objective(inputs, labels, sample_weight, training=True)
            # Under a strategy replicas' gradients are added up, so each brings its share.
            share = loss / tf.distribute.get_strategy().num_replicas_in_sync
            scaled = self.optimizer.scale_loss(share)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self._update_metrics(forward, sample_weight, loss, terms)

    def test_step(self, data: Any) -> dict[str, Any]:
        """The same loss and metrics on one batch, members in inference mode."""
        inputs, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        loss, forward, terms = self._objective(inputs, labels, sample_weight, training=False)
        return self._update_metrics(forward, sample_weight, loss, terms)

    def _objective(self, inputs, labels, sample_weight, training):
        """Loss, the pass it came from, and the method's terms."""
        loss_of = self._logits_loss()
        inputs, labels = tf.convert_to_tensor(inputs), tf.convert_to_tensor(labels)
        if not inputs.dtype.is_floating:
            raise InputError(f"Expected float pixels in [0, 1]. Received: {inputs.dtype.name}.")
        # XLA leaves assertions out; NaN fails both comparisons. Resized images may round past 1.
        inside = tf.reduce_all((inputs > -1e-3) & (inputs < 1 + 1e-3))
        tf.debugging.Assert(inside, ["Expected finite pixels in [0, 1]."])
        logits, layers, cross_entropies = [], [], []
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            for index in range(len(self.members)):
                member_logits, member_layers = self.forward_member(index, inputs, training)
                logits.append(member_logits)
                layers.append(member_layers)
                cross_entropies.append(loss_of(labels, member_logits, sample_weight))
        forward = ForwardPass(inputs, labels, logits, layers, cross_entropies, tape)
        cross_entropy = tf.add_n(cross_entropies)
        if self.member_reduction == "mean":
            cross_entropy /= len(self.members)
        terms = {"cross_entropy": cross_entropy, **self.terms(forward)}
        loss = self.accuracy_weight * cross_entropy
        for term, weight in self.term_weights.items():
            loss += weight * terms[term]
        for regularization in self.losses:
            loss += tf.cast(regularization, loss.dtype)
        return loss, forward, terms

    def _logits_loss(self) -> keras.losses.Loss:
        """The loss given to `compile`, if it takes logits."""
        loss = self.loss
        own = type(loss).__module__.split(".")[0] != "keras"  # somebody's own speaks for itself
        if not isinstance(loss, keras.losses.Loss) or not getattr(loss, "from_logits", own):
            raise InputError(
                "Members return logits. Expected compile(loss=...) to be a loss object that takes "
                "them, such as keras.losses.SparseCategoricalCrossentropy(from_logits=True). "
                f"Received: {self.loss!r}."
            )
        return self.loss

    def _update_metrics(self, forward, sample_weight, loss, terms):
        """Updates every metric with one batch and returns their current values."""
        count = tf.shape(forward.inputs)[0]
        winners = majority_vote(forward.logits).labels
        labels = forward.labels
        if labels.shape.rank == 2 and labels.shape[-1] == self.num_classes:  # one-hot
            labels = tf.argmax(labels, axis=-1)
        correct = tf.equal(winners, tf.cast(tf.reshape(labels, (-1,)), winners.dtype))
        self.vote_tracker.update_state(correct)
        for tracker in (self.cross_entropy_tracker, *self.term_trackers):
            tracker.update_state(terms[tracker.name], sample_weight=count)
        self._loss_tracker.update_state(loss, sample_weight=count)
        fused = log_mean_probability(forward.logits)
        return self.compute_metrics(forward.inputs, forward.labels, fused, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Members and arguments, enough to make an equal ensemble with other weights."""
        return {
            "members": [keras.saving.serialize_keras_object(member) for member in self.members],
            "accuracy_weight": self.accuracy_weight,
            "member_reduction": self.member_reduction,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Ensemble":
        """Makes an ensemble from what `get_config` returned."""
        members = [keras.saving.deserialize_keras_object(member) for member in config["members"]]
        return cls(**{**config, "members": members})
