"""A training recipe: how an ensemble is trained, apart from the method."""

import dataclasses
import itertools
import math
from typing import Any

from parl_tf.arguments import check_at_least, check_choice
from parl_tf.data.augmentation import AUGMENTATIONS
from parl_tf.data.datasets import PIXEL_STATISTICS
from parl_tf.errors import InputError
from parl_tf.training.fields import (
    check_integer,
    check_names,
    check_number,
    check_text,
    json_object,
    wrong,
)

OPTIMIZERS = ("adam", "sgd", "nesterov")
ANNEALING = ("cosine", "linear")
PENALIZED = ("convolutions", "all")
DEVIATIONS = ("data_set", "image")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an ensemble is trained; the defaults follow PARL's paper.

    The paper states "Adam" and a learning rate that decays from 1e-3. The other values are this
    package's; 200 epochs are from the Keras example for this network.

    Attributes:
        epochs: Passes over the training examples.
        start_epochs: Epochs of the unprotected ensemble that the run first trains to start from,
            unless it is given another, with this recipe in all else. None for random initial
            weights, or for a method that needs such a start (DVERGE), `epochs` for both.
        batch_size: Examples per step.
        optimizer: "adam"; "sgd" with a momentum of 0.9, or "nesterov" with Nesterov's.
        learning_rate: The highest learning rate; without warm-up, that of the first step.
        warm_up: Fraction of the training in which the learning rate first rises linearly.
        decay_at: Fractions of the training, between 0 and 1, after which the learning rate is
            divided by ten; None for a decay to zero, () for no decay.
        annealing: How the rate decays to zero, if it does: along a "cosine", or "linear".
        network: Name of the members' network.
        kernel_penalty: L2 penalty: the factor of the squared weights, half of what other
            frameworks call weight decay. None for the network's default.
        weight_decay: Decoupled weight decay, as in AdamW: in each step every trainable weight loses
            this fraction of itself, times the learning rate.
        penalized: What the penalty applies to: the kernels of "convolutions", or "all" trainable
            weights, including biases, scales and offsets, as in PyTorch's optimizers.
        pixel_deviation: What centred pixels are divided by: the standard deviation of a channel
            over the "data_set", or its mean standard deviation within an "image". The latter is
            about a fifth smaller and known for CIFAR-10 and CIFAR-100; other data sets use the
            former.
        noise_stddev: Standard deviation of the noise on half of the inputs, in pixel units; 0 for
            none.
        augmentation: Name of the shifts of training images, as in `parl_tf.AUGMENTATIONS`; they
            are mirrored too where an image of the data set keeps its class.
        validation_fraction: Fraction of the training examples that the command line tools keep for
            validation unless told otherwise; None for a tenth.

    Raises:
        InputError: An unknown name, fewer than one epoch, a learning rate that is not positive
            and finite, a fraction outside [0, 1), a negative weight decay, a `decay_at` that does
            not increase between 0 and 1, or both a warm-up and a `decay_at`.

    Example:
        >>> recipe = parl_tf.Recipe(epochs=24, network="resnet8")
        >>> recipe.optimizer, recipe.learning_rate
        ('adam', 0.001)
    """

    epochs: int = 200
    start_epochs: int | None = None
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    warm_up: float = 0.0
    decay_at: tuple[float, ...] | None = None
    annealing: str = "cosine"
    network: str = "resnet20"
    kernel_penalty: float | None = None
    weight_decay: float = 0.0
    penalized: str = "convolutions"
    pixel_deviation: str = "data_set"
    noise_stddev: float = 0.0
    augmentation: str = "shifts"
    validation_fraction: float | None = None

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("annealing", self.annealing, ANNEALING)
        check_choice("penalized", self.penalized, PENALIZED)
        check_choice("pixel_deviation", self.pixel_deviation, DEVIATIONS)
        AUGMENTATIONS.check(self.augmentation)
        check_at_least("epochs", self.epochs, 1)
        if self.start_epochs is not None:
            check_at_least("start_epochs", self.start_epochs, 1)
        for name in ("warm_up", "validation_fraction"):
            if not 0 <= (getattr(self, name) or 0.0) < 1:
                raise InputError(f"Expected {name} in [0, 1). Received: {getattr(self, name)}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(
                f"Expected a positive, finite learning_rate. Received: {self.learning_rate}."
            )
        decays = (0.0, *(self.decay_at or ()), 1.0)
        if any(not first < second for first, second in itertools.pairwise(decays)):
            raise InputError(
                f"Expected decay_at to increase between 0 and 1. Received: {self.decay_at}."
            )
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(
                f"Expected a finite weight_decay of at least 0. Received: {self.weight_decay}."
            )
        if self.warm_up and self.decay_at is not None:
            raise InputError(
                "Expected a warm_up only with decay_at=None, a decay to zero. "
                f"Received: decay_at={self.decay_at}."
            )

    @property
    def of_start(self) -> "Recipe":
        """The recipe of the ensemble that a run itself trains to start from."""
        return dataclasses.replace(self, epochs=self.start_epochs or self.epochs, start_epochs=None)

    def pixel_statistics(self, dataset: str) -> str | None:
        """Name of the statistics that a data set's pixels are normalised by; None if unknown."""
        by_image = f"{dataset}-image-deviation"
        if self.pixel_deviation == "image" and by_image in PIXEL_STATISTICS:
            return by_image
        return dataset if dataset in PIXEL_STATISTICS else None

    def to_json(self) -> dict[str, Any]:
        """The recipe as a JSON value."""
        decay_at = None if self.decay_at is None else list(self.decay_at)
        return {**dataclasses.asdict(self), "decay_at": decay_at}

    @classmethod
    def from_json(cls, value: Any) -> "Recipe":
        """The recipe in a JSON value that `to_json` returned.

        Raises:
            InputError: A field is missing, unknown or invalid; the message names it.
        """
        given = json_object("recipe", value)
        check_names(given, [field.name for field in dataclasses.fields(cls)], of="recipe.")
        decay_at = given.pop("decay_at")
        if not isinstance(decay_at, list | None):
            raise wrong("recipe.decay_at", "a list or null", decay_at)
        for part in decay_at or ():
            check_number("recipe.decay_at", part)
        defaults = cls()
        for name, found in given.items():
            default = getattr(defaults, name)
            if default is None and found is None:
                continue
            if isinstance(default, str):
                check_text(f"recipe.{name}", found)
            elif isinstance(default, int) or name == "start_epochs":
                check_integer(f"recipe.{name}", found, 0)
            else:
                check_number(f"recipe.{name}", found)
        return cls(decay_at=None if decay_at is None else tuple(decay_at), **given)
