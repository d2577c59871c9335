"""How ensembles are trained: each method as its authors do, or all of them alike."""

import dataclasses
import itertools
import math
from typing import Any

from parl_tf.errors import InputError
from parl_tf.registry import check_choice

OPTIMIZERS = ("adam", "sgd")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an ensemble is trained; by default as in the paper at hand.

    The paper says "Adam" and a rate that decays from 1e-3. The other values are this package's:
    200 epochs is what the Keras example trains this network for.

    Attributes:
        epochs: Passes over the training examples.
        batch_size: Examples a step.
        optimizer: "adam", or "sgd" with a momentum of 0.9.
        learning_rate: The optimizer's rate at the first step.
        decay_at: Parts of the training, between 0 and 1, at whose ends the rate is divided by
            ten; None for a cosine decay to zero, () for no decay.
        network: Name of the members' network.
        kernel_penalty: L2 penalty on convolution kernels, the factor before their squares; half
            of what other frameworks call weight decay. None for the network's own.
        noise_stddev: Deviation of the noise on half of the inputs, in pixel units; 0 for none.
        max_shift: Largest random shift of an image, in pixels.

    Raises:
        InputError: A value outside of these.
    """

    epochs: int = 200
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    decay_at: tuple[float, ...] | None = None
    network: str = "resnet20"
    kernel_penalty: float | None = None
    noise_stddev: float = 0.0
    max_shift: int = 4

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        if self.epochs < 1:
            raise InputError(f"Expected epochs of at least 1. Received: {self.epochs}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(
                f"Expected a positive, finite learning_rate. Received: {self.learning_rate}."
            )
        if not 0 <= self.max_shift < 1000:
            raise InputError(f"Expected max_shift from 0 to 999. Received: {self.max_shift}.")
        decays = (0.0, *(self.decay_at or ()), 1.0)
        if any(not first < second for first, second in itertools.pairwise(decays)):
            raise InputError(
                f"Expected decay_at to rise between 0 and 1. Received: {self.decay_at}."
            )


PAPER = Recipe()

AUTHORS = {
    "unprotected": PAPER,
    "parl": PAPER,
    # github.com/P2333/Adaptive-Diversity-Promoting; its paper says 180 epochs, decay at 120, 160.
    "adp": Recipe(batch_size=64, decay_at=(0.5, 0.75)),
    # arXiv 1901.09981, section 5 (network, noise, optimizer); epochs and decay as in the port of
    # github.com/zjysteven/DVERGE, the paper not saying them.
    "gal": Recipe(decay_at=(0.5, 0.75), network="resnet20-leaky-relu", noise_stddev=0.045),
    # github.com/zjysteven/DVERGE. Its weight decay also covers batch normalisation and biases.
    "dverge": Recipe(
        optimizer="sgd",
        learning_rate=0.1,
        decay_at=(0.5, 0.75),
        network="resnet20-shortcut-batch-norm",
        kernel_penalty=5e-5,
    ),
    # github.com/AI-secure/Transferability-Reduced-Smooth-Ensemble; weight decay as for DVERGE.
    "trs": Recipe(
        epochs=120,
        decay_at=(1 / 3, 2 / 3),
        network="resnet20-shortcut-batch-norm",
        kernel_penalty=5e-5,
    ),
    # arXiv 2112.04948 v2.
    "guardian": Recipe(
        epochs=50,
        batch_size=64,
        decay_at=(0.5, 0.8),
        network="resnet20-bare-stem",
        kernel_penalty=0.0,
    ),
}
"""The recipe of each method's authors; a method that is not here has the paper's."""

NAMES = ("authors", "paper")


def recipe_for(method: str, name: str = "authors", **changes: Any) -> Recipe:
    """The recipe that a method is trained by.

    Args:
        method: Name of the method.
        name: "authors" for that of the method's authors, "paper" for the one that is the same for
            all methods.
        **changes: Attributes that are to be other than the recipe's.

    Raises:
        InputError: An unknown name, or a change outside an attribute's values.
    """
    check_choice("recipe", name, NAMES)
    recipe = AUTHORS.get(method, PAPER) if name == "authors" else PAPER
    return dataclasses.replace(recipe, **changes)
