"""Adversarial training, which composes with every method."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from parl_tf.arguments import check_at_least, check_choice
from parl_tf.defences.crafting import ascend, kept_state, random_start
from parl_tf.errors import InputError
from parl_tf.graphs.folding import folded_if_possible
from parl_tf.tensors import LOSS_SCALE, log_mean_probability


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialTraining:
    """PGD settings for the examples that the cross-entropy sees instead of the clean images.

    Attributes:
        epsilon: Radius of the L-infinity ball, in pixel units of [0, 1].
        step_size: Size of a step, in pixel units, at most epsilon.
        num_steps: Number of steps from a uniform random start.
        against: What the examples are made against: "members", each its own, or "ensemble", the
            same for all.
        batch_norm: Statistics of batch normalisation while crafting: "moving", or those of the
            "batch".

    Batch normalisation's moving statistics are updated by all passes in training mode: over the
    examples, and over the images if a method's terms need them.

    Raises:
        InputError: An epsilon outside (0, 1], a step_size outside (0, epsilon], no steps, or an
            unknown choice.

    Example:
        >>> import parl_tf
        >>> network = dict(input_shape=(8, 8, 3), blocks=1)
        >>> members = [parl_tf.resnet20(10, seed=seed, **network) for seed in (0, 1)]
        >>> how = parl_tf.AdversarialTraining(epsilon=8 / 255, num_steps=7)
        >>> parl_tf.Ensemble(members, adversarial_training=how).adversarial_training.num_steps
        7

    Source: Madry et al. 2018, arXiv 1706.06083, section 4.
    """

    epsilon: float = 8 / 255
    step_size: float = 2 / 255
    num_steps: int = 10
    against: str = "members"
    batch_norm: str = "moving"

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise InputError(f"Expected epsilon in (0, 1]. Received: {self.epsilon}.")
        if not 0 < self.step_size <= self.epsilon:
            raise InputError(
                f"Expected a step_size in (0, epsilon], epsilon being {self.epsilon}. "
                f"Received: {self.step_size}."
            )
        check_at_least("num_steps", self.num_steps, 1)
        check_choice("against", self.against, ("members", "ensemble"))
        check_choice("batch_norm", self.batch_norm, ("moving", "batch"))

    @classmethod
    def of(cls, given: object) -> "AdversarialTraining | None":
        """The value of an argument `adversarial_training`: an instance, its attributes, or None.

        Raises:
            InputError: Something else, or unknown attributes.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if isinstance(given, Mapping) and set(given) <= set(names):
            return cls(**given)
        if given is None or isinstance(given, cls):
            return given
        raise InputError(
            "Expected adversarial_training as an AdversarialTraining, a mapping of "
            f"{', '.join(names)}, or None. Received: {given!r}."
        )

    def examples(
        self,
        members: Sequence[keras.Model],
        losses_of: Callable[[tf.Tensor], tf.Tensor],
        images: tf.Tensor,
        seed: tf.Tensor,
    ) -> list[tf.Tensor]:
        """Makes a batch of adversarial examples for each member.

        Args:
            members: The classifiers.
            losses_of: From logits (batch, classes) to each example's loss (batch,).
            images: Tensor (batch, height, width, channels), pixels in [0, 1].
            seed: int32 tensor (2,), of the random starts.

        Returns:
            For each member a tensor of the shape of `images`, without gradient.
        """
        training = self.batch_norm == "batch"

        def attack(models: Sequence[keras.Model], model_seed: tf.Tensor) -> tf.Tensor:
            functions: list[Callable[[tf.Tensor], tf.Tensor]]
            if training:
                functions = [functools.partial(model, training=True) for model in models]
            else:
                functions = [folded_if_possible(model) for model in models]

            def objective(adversarial: tf.Tensor) -> tf.Tensor:
                answers = [function(adversarial) for function in functions]
                logits = answers[0] if len(answers) == 1 else log_mean_probability(answers)
                return LOSS_SCALE * tf.reduce_sum(losses_of(logits))

            start = random_start(images, self.epsilon, model_seed)
            return ascend(
                objective,
                start,
                images,
                epsilon=self.epsilon,
                step_size=self.step_size,
                num_steps=self.num_steps,
            )

        with kept_state(members) if training else contextlib.nullcontext():
            if self.against == "ensemble":
                return [attack(members, seed)] * len(members)
            return [
                attack([member], tf.random.fold_in(seed, index, alg="philox"))
                for index, member in enumerate(members)
            ]
