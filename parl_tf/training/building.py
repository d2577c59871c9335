"""The ensemble and the optimizer of a recipe, with the network's defaults filled in."""

import dataclasses
import inspect
from typing import Any

import keras
import numpy as np

from parl_tf.data.datasets import Dataset, check_dataset
from parl_tf.defences import METHODS
from parl_tf.defences.base import Ensemble
from parl_tf.models import NETWORKS
from parl_tf.models.penalties import penalize_all_weights
from parl_tf.training.optimizers import FusedAdam
from parl_tf.training.recipe import Recipe
from parl_tf.training.recipes import recipe_of
from parl_tf.training.schedules import OneCycle


def build_ensemble(
    method: str,
    dataset: Dataset,
    *,
    recipe: Recipe | str | None = None,
    num_members: int = 3,
    seed: int = 0,
    **arguments: Any,
) -> Ensemble:
    """Makes an untrained ensemble for a data set.

    Args:
        method: Name of a training method.
        dataset: Determines image shape, classes and normalisation.
        recipe: Determines the members' network; as for `train`.
        num_members: Number of members.
        seed: Determines the members' initial weights, which differ for every pair of seed and
            member, and the method's random draws in training.
        **arguments: Keyword arguments of the method's class.

    Returns:
        The ensemble, not compiled.

    Raises:
        InputError: The method is unknown, or its class rejects an argument.

    Example:
        >>> recipe = parl_tf.Recipe(network="resnet8")
        >>> ensemble = parl_tf.build_ensemble("parl", dataset, recipe=recipe, num_layers=3)
        >>> ensemble  # doctest: +ELLIPSIS
        <PARL name=parl...>
        >>> len(ensemble.members)
        3
    """
    make = METHODS[method]
    check_dataset(dataset)
    recipe = recipe_of(recipe, method)
    network = NETWORKS[recipe.network]
    normalization = recipe.pixel_statistics(dataset.name)
    options = {} if recipe.kernel_penalty is None else {"kernel_penalty": recipe.kernel_penalty}
    members = [
        network(
            dataset.num_classes,
            input_shape=dataset.image_shape,
            normalization=normalization,
            seed=member_seed,
            **options,
        )
        for member_seed in _member_seeds(seed, num_members)
    ]
    if recipe.penalized == "all":
        for member in members:
            penalize_all_weights(member, resolved(recipe).kernel_penalty or 0.0)
    return make(members, seed=seed, **arguments)


def resolved(recipe: Recipe) -> Recipe:
    """A recipe with its network's defaults filled in."""
    if recipe.kernel_penalty is not None:
        return recipe
    parameters = inspect.signature(NETWORKS[recipe.network]).parameters
    return dataclasses.replace(recipe, kernel_penalty=parameters["kernel_penalty"].default)


def optimizer_of(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe, with its learning rate schedule."""
    steps = recipe.epochs * steps_per_epoch
    rate: keras.optimizers.schedules.LearningRateSchedule | float = recipe.learning_rate
    if recipe.decay_at is None and not recipe.warm_up and recipe.annealing == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
    elif recipe.decay_at is None:
        warm_up_steps = int(recipe.warm_up * steps)
        rate = OneCycle(recipe.learning_rate, steps, warm_up_steps, recipe.annealing)
    elif recipe.decay_at:
        # A rate applies up to and including its boundary; steps are counted from 0.
        boundaries = [round(part * steps) - 1 for part in recipe.decay_at]
        rates = [recipe.learning_rate / 10**number for number in range(len(boundaries) + 1)]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
    weight_decay = recipe.weight_decay or None
    if recipe.optimizer == "adam":
        return FusedAdam(rate, weight_decay=weight_decay)
    nesterov = recipe.optimizer == "nesterov"
    return keras.optimizers.SGD(rate, 0.9, nesterov=nesterov, weight_decay=weight_decay)


def _member_seeds(seed: int, num_members: int) -> list[int]:
    """A seed for each member, different for every `seed`."""
    children = np.random.SeedSequence(seed).spawn(num_members)
    return [int(child.generate_state(1)[0]) for child in children]
