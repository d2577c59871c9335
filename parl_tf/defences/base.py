"""The base class of every training method, which by itself is the unprotected ensemble."""

import dataclasses
import inspect
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from parl_tf.arguments import check_choice, check_seed
from parl_tf.defences.adversarial_training import AdversarialTraining
from parl_tf.defences.checked_model import CheckedModel
from parl_tf.defences.crafting import step_number
from parl_tf.defences.forward import ForwardPass, after
from parl_tf.defences.objective import Objective, example_losses, logits_loss, objective
from parl_tf.errors import InputError
from parl_tf.graphs.classifiers import check_members
from parl_tf.graphs.second_derivatives import Differentiated, check_layers, whole_network
from parl_tf.graphs.second_order import differentiable
from parl_tf.runtime.replicas import equal_parts, finite_together, num_replicas
from parl_tf.tensors import log_mean_probability, majority_vote


@keras.saving.register_keras_serializable(package="parl_tf")
class Ensemble(CheckedModel):
    """Classifiers that are trained and used together; the unprotected ensemble.

    The training loss is the members' cross-entropy, plus the weighted terms of a method, plus the
    members' own regularisation. `compile`, `fit`, `evaluate`, `predict` and `save` are Keras's;
    compile with a loss object that takes logits. A call returns the logarithm of the members'
    mean probability, which such a loss and every attack take as logits. `fit` reports `loss`,
    `cross_entropy`, the method's terms before weighting, and `vote_accuracy`.

    A method is a subclass that overrides `terms`, `forward_member` if its terms need more than
    logits, and `craft` if the cross-entropy is to see other images than those of the batch.

    Args:
        members: At least two different functional Keras classifiers of the same input and number
            of classes, each from pixels in [0, 1] to logits.
        accuracy_weight: Weight of the cross-entropy.
        member_reduction: How the members' cross-entropies are combined: "sum" or "mean".
        adversarial_training: How to make the adversarial examples that the cross-entropy sees
            instead of the images: an `AdversarialTraining`, its attributes as a mapping, or None
            for none. The method's own terms are still computed on the clean images.
        seed: Determines, with the number of the step, the random draws in training.
        term_weights: Weight of each term of the method, by name. For subclasses.
        reported: Names of values that `terms` returns only for reporting. For subclasses.
        differentiated: A function from a member to those of its gradients that the terms contain;
            None if they contain none. For subclasses.
        check_second_derivatives: Whether to check that terms with gradients can be trained. An
            ensemble is not checked again when it is loaded.
        name: Name of the model.

    Raises:
        InputError: Members that are not as described, layers in the terms' gradients whose second
            derivative is missing or wrong, an unknown `member_reduction`, a negative seed, or a
            weight that is not finite.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> network = dict(input_shape=(8, 8, 3), blocks=1)
        >>> members = [parl_tf.resnet20(10, seed=seed, **network) for seed in (0, 1)]
        >>> ensemble = parl_tf.Ensemble(members)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> ensemble.compile("adam", loss, run_eagerly=True)
        >>> images, labels = np.random.default_rng(0).uniform(size=(6, 8, 8, 3)), np.arange(6)
        >>> sorted(ensemble.fit(images, labels, verbose=0).history)
        ['cross_entropy', 'loss', 'vote_accuracy']
        >>> ensemble.predict_classes(images).shape
        (6,)

    Source: PARL, arXiv 2112.04948, section 4.2 (the loss without its second term).
    """

    needs_start: ClassVar[bool] = False
    """Whether training begins from a trained unprotected ensemble."""

    def __init__(
        self,
        members: Sequence[keras.Model],
        *,
        accuracy_weight: float = 1.0,
        member_reduction: str = "sum",
        adversarial_training: AdversarialTraining | Mapping[str, Any] | None = None,
        seed: int = 0,
        term_weights: Mapping[str, float] | None = None,
        reported: Sequence[str] = (),
        differentiated: Callable[[keras.Model], Differentiated] | None = whole_network,
        check_second_derivatives: bool = True,
        name: str | None = None,
    ) -> None:
        members = list(members)
        check_members(members)
        check_choice("member_reduction", member_reduction, ("sum", "mean"))
        check_seed(seed)
        weights = {"accuracy_weight": accuracy_weight, **(term_weights or {})}
        if not all(math.isfinite(weight) for weight in weights.values()):
            raise InputError(f"Expected finite weights. Received: {weights}.")
        if check_second_derivatives and term_weights and differentiated:
            check_layers(members, differentiated, type(self).__name__)
        adversarial_training = AdversarialTraining.of(adversarial_training)
        super().__init__(name=name)
        self.members = members
        # These share the members' layers; as bound methods they are neither saved nor counted.
        self._differentiable = tuple(differentiable(member).__call__ for member in members)
        self.accuracy_weight = float(accuracy_weight)
        self.member_reduction = member_reduction
        self.adversarial_training = adversarial_training
        self.seed = seed
        self.term_weights = dict(term_weights or {})
        self.cross_entropy_tracker = keras.metrics.Mean(name="cross_entropy")
        self.term_trackers = [
            keras.metrics.Mean(name=term) for term in (*self.term_weights, *reported)
        ]
        self.vote_tracker = keras.metrics.Mean(name="vote_accuracy")
        # `compile` decides by it whether to scale the loss; members have their own policies.
        if any(layer.compute_dtype == "float16" for _, layer in self.named_layers()):
            self.dtype_policy = keras.DTypePolicy("mixed_float16")
        # The members are built and there is nothing else to build; without this, a model trained
        # by `train_step` alone would lose its optimizer state when saved.
        self.built = True

    def forward_member(
        self, index: int, inputs: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Runs one member, under the tape that watches the inputs.

        An override runs a member with `run_member`, or a part of it with a `DifferentiableNetwork`:
        terms with gradients of a member's own call would be trained in wrong directions.

        Args:
            index: Which member.
            inputs: Tensor (batch, height, width, channels), pixels in [0, 1].
            training: Whether in training mode.

        Returns:
            Its logits (batch, classes), and whatever other outputs `terms` needs.
        """
        return self.run_member(index, inputs, training), []

    def run_member(self, index: int, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        """A member's logits; in training mode, terms may differentiate their gradients.

        Args:
            index: Which member.
            inputs: Tensor (batch, height, width, channels), pixels in [0, 1].
            training: Whether in training mode.

        Returns:
            Tensor (batch, classes).
        """
        run = self._differentiable[index] if training else self.members[index]
        return run(inputs, training=training)

    def watched(self) -> list[Any]:
        """Further tensors or variables with respect to which `terms` takes gradients."""
        return []

    def terms(self, forward: ForwardPass) -> dict[str, tf.Tensor]:
        """The method's additions to the loss, as scalars before weighting.

        Terms may contain first derivatives, but not second ones, nor derivatives with respect to
        scales and offsets of batch normalisation.

        Args:
            forward: The pass over the batch. Gradients with respect to its inputs come from its
                tape, and are differentiable. A method without `term_weights` that crafts its
                images gets the pass over these, and no gradients.

        Returns:
            A scalar for each name in `term_weights` and `reported`.
        """
        return {}

    def craft(
        self, images: tf.Tensor, labels: tf.Tensor, partners: tf.Tensor | None
    ) -> list[list[tf.Tensor]] | None:
        """Makes the images that the cross-entropy sees in a training step, before recording.

        Args:
            images: Tensor (batch, height, width, channels), pixels in [0, 1].
            labels: The labels as they were given to `fit`.
            partners: Images of an independent batch, if `fit` was given pairs, else None.

        Returns:
            For each member its batches of images, all with the labels `labels` and without
            gradient; its cross-entropies over them are summed. None for the images themselves.
        """
        if self.adversarial_training is None:
            return None
        examples = self.adversarial_training.examples(
            self.members,
            lambda logits: self.example_losses(labels, logits),
            images,
            self.step_seed("adversarial training"),
        )
        return [[batch] for batch in examples]

    def step_seed(self, purpose: str) -> tf.Tensor:
        """Seed for a random draw of one training step.

        It is determined by the ensemble's seed, the purpose and the number of the step, so an
        interrupted run draws the same when it is resumed. Each batch is a step, even if an
        optimizer accumulates the gradients of several.

        Args:
            purpose: Name of the draw; each has its own seed.

        Returns:
            int32 tensor (2,), for `crafting.uniform`.
        """
        seed = tf.constant([self.seed, zlib.crc32(purpose.encode()) & 0x7FFFFFFF], tf.int32)
        return tf.random.fold_in(seed, step_number(self.optimizer), alg="philox")

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of the optimizer on one batch."""
        images, labels, sample_weight, partners = self._unpack(data)
        images = equal_parts(images)
        views = self.craft(images, labels, partners)
        with tf.GradientTape() as tape:
            found = objective(self, images, labels, sample_weight, views, training=True)
            # Under a strategy replicas' gradients are added up, so each brings its share.
            scaled = self.optimizer.scale_loss(found.loss / num_replicas())
        gradients = tape.gradient(scaled, self.trainable_variables)
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            gradients = finite_together(gradients)
        gradients = after(gradients, [found.loss, *found.terms.values()])
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self._update_metrics(found, sample_weight)

    def test_step(self, data: Any) -> dict[str, Any]:
        """The same loss and metrics on one unmodified batch, members in inference mode."""
        images, labels, sample_weight, _ = self._unpack(data)
        found = objective(self, images, labels, sample_weight, None, training=False)
        return self._update_metrics(found, sample_weight)

    def example_losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The compiled loss of each example, before any weighting.

        Args:
            labels: The labels as they were given to `fit`.
            logits: Tensor (batch, classes).

        Returns:
            Tensor (batch,), of at least float32.
        """
        return example_losses(logits_loss(self.loss), labels, logits)

    def _update_metrics(self, found: Objective, sample_weight: Any) -> dict[str, Any]:
        """Updates every metric with one batch and returns their current values."""
        forward = found.forward
        count = tf.shape(forward.inputs)[0]
        winners = majority_vote(forward.logits).labels
        self.vote_tracker.update_state(tf.equal(winners, forward.classes))
        for tracker in (self.cross_entropy_tracker, *self.term_trackers):
            tracker.update_state(found.terms[tracker.name], sample_weight=count)
        self.update_loss(found.loss, count)
        fused = log_mean_probability(forward.logits)
        return self.compute_metrics(forward.inputs, forward.labels, fused, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Members and arguments, enough to recreate the ensemble except for its weights."""
        return {
            "members": self.serialized_members(self.members),
            "accuracy_weight": self.accuracy_weight,
            "member_reduction": self.member_reduction,
            "adversarial_training": (
                self.adversarial_training and dataclasses.asdict(self.adversarial_training)
            ),
            "seed": self.seed,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Ensemble":
        """Makes an ensemble from what `get_config` returned."""
        members = [keras.saving.deserialize_keras_object(member) for member in config["members"]]
        kept = {**cls.former_arguments, **config, "members": members}
        parameters = inspect.signature(cls).parameters.values()
        if any(p.name == "check_second_derivatives" or p.kind == p.VAR_KEYWORD for p in parameters):
            kept = {"check_second_derivatives": False, **kept}  # it was made once
        return cls(**kept)
