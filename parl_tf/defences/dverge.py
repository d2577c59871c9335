"""DVERGE: members trained on each other's non-robust features."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from parl_tf.arguments import check_at_least, check_choice
from parl_tf.defences.base import Ensemble
from parl_tf.defences.crafting import ascend, kept_state, uniform
from parl_tf.defences.former_arguments import FORMER_ARGUMENTS
from parl_tf.errors import InputError
from parl_tf.graphs.exposure import distillation_outputs
from parl_tf.graphs.second_order import DifferentiableNetwork
from parl_tf.runtime.replicas import gathered, own_part
from parl_tf.tensors import widened


@keras.saving.register_keras_serializable(package="parl_tf")
class DVERGE(Ensemble):
    """Diversifying vulnerabilities.

    In each step every member distils images: near each image it finds one whose features, in that
    member, are those of another image, the partner. All other members learn to classify it with the
    label of the original image. There is no cross-entropy on the images themselves. The layer of
    the features is drawn from (seed, epoch) when `fit` begins an epoch, the same for all members,
    and reported as `layer`: convolutions count from 1, and the last number means the logits.

    Members start from those of a trained unprotected ensemble. Partners come from an independent
    batch if `fit` is given pairs (`parl_tf.paired_batches`), else from a permutation of the same
    batch. Validation is on the images themselves; `vote_accuracy` in training is on the distilled
    images, which differ between members.

    Args:
        members: As for `Ensemble`. With members of different depth, layers are drawn from those
            that all have.
        epsilon: Radius of the L-infinity ball around an image, in pixel units of [0, 1].
        step_size: Size of a step, in pixel units.
        num_steps: Number of steps.
        decay_factor: Factor on earlier gradients in each step.
        distillation_batch_norm: Statistics of batch normalisation while distilling: those of the
            "batch", or "moving".
        distillation_moves_statistics: Whether distillation with the statistics of the batch updates
            the moving statistics of the layers up to the one that it distils from, as in the
            authors' code: in each of its steps by the images and then by their partners, which
            are run again for it. Otherwise distillation does not change them.
        **options: As for `Ensemble`. With adversarial training each member is also trained on its
            adversarial examples.

    Raises:
        InputError: What `Ensemble` refuses, epsilon outside (0, 1], step_size outside
            (0, epsilon], no steps, or an unknown choice.

    Example:
        >>> import parl_tf
        >>> network = dict(input_shape=(8, 8, 3), blocks=1)
        >>> members = [parl_tf.resnet20(10, seed=seed, **network) for seed in (0, 1)]
        >>> ensemble = parl_tf.DVERGE(members, epsilon=0.07, num_steps=10)
        >>> ensemble.num_layers  # seven convolutions, and the logits
        8

    Source: Yang et al. 2020, arXiv 2009.14720, equations 2 to 4.
    """

    former_arguments = FORMER_ARGUMENTS["dverge"]

    uses_partners: ClassVar[bool] = True
    needs_start: ClassVar[bool] = True
    train_function: Any  # Keras's

    def __init__(
        self,
        members: Sequence[keras.Model],
        *,
        epsilon: float = 0.07,
        step_size: float = 0.007,
        num_steps: int = 10,
        decay_factor: float = 1.0,
        distillation_batch_norm: str = "batch",
        distillation_moves_statistics: bool = False,
        **options: Any,
    ) -> None:
        if not 0 < epsilon <= 1:
            raise InputError(f"Expected epsilon in (0, 1]. Received: {epsilon}.")
        if not 0 < step_size <= epsilon:
            raise InputError(
                f"Expected step_size in (0, epsilon], epsilon being {epsilon}. "
                f"Received: {step_size}."
            )
        check_at_least("num_steps", num_steps, 1)
        check_choice("distillation_batch_norm", distillation_batch_norm, ("batch", "moving"))
        if distillation_moves_statistics and distillation_batch_norm != "batch":
            raise InputError(
                "Distillation with moving statistics does not update them. Expected "
                "distillation_moves_statistics only with distillation_batch_norm='batch'. "
                f"Received: {distillation_batch_norm!r}."
            )
        super().__init__(members, reported=["layer"], **options)
        self.epsilon = epsilon
        self.step_size = step_size
        self.num_steps = num_steps
        self.decay_factor = decay_factor
        self.distillation_batch_norm = distillation_batch_norm
        self.distillation_moves_statistics = bool(distillation_moves_statistics)
        outputs = [distillation_outputs(member) for member in self.members]
        self.num_layers = min(len(layers) for layers in outputs)
        self._layer_outputs = tuple(
            (*layers[: self.num_layers - 1], layers[-1]) for layers in outputs
        )
        self._layer = self.layer_of_epoch(0)
        self._reported_layer = tf.Variable(self._layer, trainable=False, dtype=tf.float32)
        self._train_functions: dict[int, Callable] = {}

    def layer_of_epoch(self, epoch: int) -> int:
        """The layer whose features are distilled in an epoch, from 1 to `num_layers`."""
        return int(np.random.default_rng((self.seed, epoch)).integers(1, self.num_layers + 1))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Sets the layer of the epoch."""
        self._layer = self.layer_of_epoch(epoch)
        self._reported_layer.assign(self._layer)
        self.make_train_function()

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the graph of `train_step` for the epoch's layer, or reuses an earlier one.

        The layer is part of the graph: only the network up to it is run.
        """
        if force or self.train_function is None:  # as it is after `compile`
            self._train_functions.clear()
        if self._layer not in self._train_functions:
            super().make_train_function(force=True)
            self._train_functions[self._layer] = self.train_function
        self.train_function = self._train_functions[self._layer]
        return self.train_function

    def craft(
        self, images: tf.Tensor, labels: tf.Tensor, partners: tf.Tensor | None
    ) -> list[list[tf.Tensor]]:
        """For each member the images that the other members distilled."""
        if partners is None:
            seed = self.step_seed("partners")
            order = tf.argsort(gathered(uniform(tf.shape(images)[:1], seed, tf.float32)))
            partners = tf.gather(gathered(images), own_part(order))
        training = self.distillation_batch_norm == "batch"
        restored = training and not self.distillation_moves_statistics
        with kept_state(self.members) if restored else contextlib.nullcontext():
            made = [
                self._distil(index, images, partners, training)
                for index in range(len(self.members))
            ]
        views = [made[:index] + made[index + 1 :] for index in range(len(self.members))]
        adversarial = super().craft(images, labels, None) or [[] for _ in self.members]
        return [own + extra for own, extra in zip(views, adversarial, strict=True)]

    def _distil(
        self, index: int, images: tf.Tensor, partners: tf.Tensor, training: bool
    ) -> tf.Tensor:
        """Images near `images` with a member's features of `partners` in the epoch's layer."""
        output = self._layer_outputs[index][self._layer - 1]
        features = DifferentiableNetwork(self.members[index], [output])
        moves = self.distillation_moves_statistics
        target = None if moves else widened(features(partners, training=training))

        def closeness(points: tf.Tensor) -> tf.Tensor:
            found = widened(features(points, training=training))
            goal = widened(features(partners, training=training)) if moves else target
            return -tf.reduce_sum(tf.square(found - goal))

        return ascend(
            closeness,
            images,
            images,
            epsilon=self.epsilon,
            step_size=self.step_size,
            num_steps=self.num_steps,
            decay_factor=self.decay_factor,
        )

    def terms(self, forward: Any) -> dict[str, tf.Tensor]:
        """Nothing to add to the loss; the epoch's layer, for reporting."""
        return {"layer": tf.identity(self._reported_layer)}

    def get_config(self) -> dict[str, Any]:
        """Members and arguments."""
        return {
            **super().get_config(),
            "epsilon": self.epsilon,
            "step_size": self.step_size,
            "num_steps": self.num_steps,
            "decay_factor": self.decay_factor,
            "distillation_batch_norm": self.distillation_batch_norm,
            "distillation_moves_statistics": self.distillation_moves_statistics,
        }
