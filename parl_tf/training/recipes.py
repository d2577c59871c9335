"""Training recipes: those of each method's authors, and those that are the same for all methods."""

import dataclasses
from typing import Any

from parl_tf.arguments import check_choice
from parl_tf.errors import InputError
from parl_tf.training.recipe import Recipe

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

FAST = Recipe(
    epochs=15,
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.1,
    warm_up=0.2,
    annealing="linear",
    kernel_penalty=2.5e-4,
    validation_fraction=0.0,
)
"""A short training on all training examples, the same for all methods.

Its rate and penalty are customary ones; no search has compared them yet."""

_MORE_EPOCHS = {"dverge": 4, "trs": 4}
_MORE_ADVERSARIAL_EPOCHS = 4

NAMES = ("authors", "paper", "fast")


def recipe_for(
    method: str, name: str = "authors", *, adversarial_training: bool = False, **changes: Any
) -> Recipe:
    """The recipe that a method is trained by.

    Args:
        method: Name of the method.
        name: "authors" for that of the method's authors. "paper" and "fast" are the same for all
            methods: as in PARL's paper, or a few epochs of all training examples. With "fast",
            DVERGE, TRS and adversarial training add epochs to an ensemble that was trained so.
        adversarial_training: Whether the run trains adversarially.
        **changes: Attributes to change.

    Raises:
        InputError: The name is unknown, or a change is invalid.

    Example:
        >>> parl_tf.recipe_for("dverge").optimizer
        'sgd'
        >>> parl_tf.recipe_for("dverge", "paper", epochs=24).optimizer
        'adam'
        >>> fast = parl_tf.recipe_for("dverge", "fast")
        >>> fast.start_epochs, fast.epochs
        (15, 4)
    """
    check_choice("recipe", name, NAMES)
    recipe = {"authors": AUTHORS.get(method, PAPER), "paper": PAPER, "fast": FAST}[name]
    more = _MORE_EPOCHS.get(method, _MORE_ADVERSARIAL_EPOCHS if adversarial_training else None)
    if name == "fast" and more:
        recipe = dataclasses.replace(FAST, epochs=more, start_epochs=FAST.epochs)
    return dataclasses.replace(recipe, **changes)


def recipe_of(
    given: Recipe | str | None, method: str, *, adversarial_training: bool = False
) -> Recipe:
    """A given recipe, the one with a given name, or for None that of the method's authors.

    The arguments are those of `recipe_for`.

    Raises:
        InputError: The name is unknown, or `given` is something else.
    """
    if given is None or isinstance(given, str):
        name = "authors" if given is None else given
        return recipe_for(method, name, adversarial_training=adversarial_training)
    if not isinstance(given, Recipe):
        raise InputError(
            f"Expected a Recipe, such as recipe_for({method!r}, epochs=10), or the name of one. "
            f"Received: {given!r}."
        )
    return given
