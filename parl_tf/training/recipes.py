"""Training recipes: those of each method's authors, and one that is the same for all methods."""

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

OPTIMIZERS = ("adam", "sgd")
PENALIZED = ("convolutions", "all")
DEVIATIONS = ("data_set", "image")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an ensemble is trained; the defaults follow PARL's paper.

    The paper states "Adam" and a learning rate that decays from 1e-3. The other values are this
    package's; 200 epochs are from the Keras example for this network.

    Attributes:
        epochs: Passes over the training examples.
        batch_size: Examples per step.
        optimizer: "adam", or "sgd" with a momentum of 0.9.
        learning_rate: Learning rate at the first step.
        decay_at: Fractions of the training, between 0 and 1, after which the learning rate is
            divided by ten; None for a cosine decay to zero, () for no decay.
        network: Name of the members' network.
        kernel_penalty: L2 penalty: the factor of the squared weights, half of what other
            frameworks call weight decay. None for the network's default.
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

    Raises:
        InputError: An unknown name, fewer than one epoch, a learning rate that is not positive
            and finite, or a `decay_at` that does not increase between 0 and 1.

    Example:
        >>> recipe = parl_tf.Recipe(epochs=24, network="resnet8")
        >>> recipe.optimizer, recipe.learning_rate
        ('adam', 0.001)
    """

    epochs: int = 200
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    decay_at: tuple[float, ...] | None = None
    network: str = "resnet20"
    kernel_penalty: float | None = None
    penalized: str = "convolutions"
    pixel_deviation: str = "data_set"
    noise_stddev: float = 0.0
    augmentation: str = "shifts"

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("penalized", self.penalized, PENALIZED)
        check_choice("pixel_deviation", self.pixel_deviation, DEVIATIONS)
        AUGMENTATIONS.check(self.augmentation)
        check_at_least("epochs", self.epochs, 1)
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(
                f"Expected a positive, finite learning_rate. Received: {self.learning_rate}."
            )
        decays = (0.0, *(self.decay_at or ()), 1.0)
        if any(not first < second for first, second in itertools.pairwise(decays)):
            raise InputError(
                f"Expected decay_at to increase between 0 and 1. Received: {self.decay_at}."
            )

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
        for name, found in given.items():
            default = getattr(PAPER, name)
            if isinstance(default, str):
                check_text(f"recipe.{name}", found)
            elif isinstance(default, int):
                check_integer(f"recipe.{name}", found, 0)
            elif not (name == "kernel_penalty" and found is None):
                check_number(f"recipe.{name}", found)
        return cls(decay_at=None if decay_at is None else tuple(decay_at), **given)


PAPER = Recipe()

# Departures from all of these authors: they train on all 50,000 images and validate on the test
# images; here a tenth is kept for validation (parl-train --validation-fraction 0 trains on all).
# They also train on the last, smaller batch of an epoch; here it is dropped.
AUTHORS = {
    "unprotected": PAPER,
    "parl": PAPER,
    # github.com/P2333/Adaptive-Diversity-Promoting; its paper says 180 epochs, decay at 120, 160.
    # The rate falls after 101 and 151 epochs. Departure: it subtracts the mean training image and
    # does not scale, here channels are normalised, so that networks store no image.
    "adp": Recipe(batch_size=64, decay_at=(101 / 200, 151 / 200), augmentation="bilinear-shifts"),
    # arXiv 1901.09981, section 5 (network, noise, optimizer); epochs, decay, weight decay of all
    # weights, normalisation and crops, which the paper does not state, as in the port in
    # github.com/zjysteven/DVERGE. Departures from the port: it uses DVERGE's network, and does not
    # clip noisy images to [0, 1].
    "gal": Recipe(
        decay_at=(0.5, 0.75),
        network="resnet20-leaky-relu",
        kernel_penalty=5e-5,
        penalized="all",
        pixel_deviation="image",
        noise_stddev=0.045,
        augmentation="black-crops-4",
    ),
    # github.com/zjysteven/DVERGE. Departures: it initialises kernels by fan-out, here by fan-in
    # (he_normal), as for all methods; and its distillation updates the moving statistics of batch
    # normalisation, here only with distillation_moves_statistics=True.
    "dverge": Recipe(
        optimizer="sgd",
        learning_rate=0.1,
        decay_at=(0.5, 0.75),
        network="resnet20-shortcut-batch-norm",
        kernel_penalty=5e-5,
        penalized="all",
        pixel_deviation="image",
        augmentation="black-crops-4",
    ),
    # github.com/AI-secure/Transferability-Reduced-Smooth-Ensemble. Its schedule lags by one epoch:
    # the rate falls after 41 and 81 epochs. Departure: the initial kernels, as for DVERGE.
    "trs": Recipe(
        epochs=120,
        decay_at=(41 / 120, 81 / 120),
        network="resnet20-shortcut-batch-norm",
        kernel_penalty=5e-5,
        penalized="all",
        pixel_deviation="image",
        augmentation="black-crops-4",
    ),
    # arXiv 2112.04948 v2.
    "guardian": Recipe(
        epochs=50,
        batch_size=64,
        decay_at=(0.5, 0.8),
        network="resnet20-bare-stem",
        kernel_penalty=0.0,
        augmentation="edge-crops-4",
    ),
}
"""The recipe of each method's authors; other methods use the paper's."""

NAMES = ("authors", "paper")


def recipe_for(method: str, name: str = "authors", **changes: Any) -> Recipe:
    """The recipe that a method is trained by.

    Args:
        method: Name of the method.
        name: "authors" for that of the method's authors, "paper" for the one that is the same for
            all methods.
        **changes: Attributes to change.

    Raises:
        InputError: The name is unknown, or a change is invalid.

    Example:
        >>> parl_tf.recipe_for("dverge").optimizer
        'sgd'
        >>> parl_tf.recipe_for("dverge", "paper", epochs=24).optimizer
        'adam'
    """
    check_choice("recipe", name, NAMES)
    recipe = AUTHORS.get(method, PAPER) if name == "authors" else PAPER
    return dataclasses.replace(recipe, **changes)


def recipe_of(given: Recipe | str | None, method: str) -> Recipe:
    """A given recipe, the one with a given name, or for None that of the method's authors.

    Raises:
        InputError: The name is unknown, or `given` is something else.
    """
    if given is None or isinstance(given, str):
        return recipe_for(method, given or "authors")
    if not isinstance(given, Recipe):
        raise InputError(
            f"Expected a Recipe, such as recipe_for({method!r}, epochs=10), or the name of one. "
            f"Received: {given!r}."
        )
    return given
