"""Migration of run configurations that older versions wrote, one format at a time.

A change of the format needs a new number and a function here. An argument added to a training
method needs neither, only a line in `parl_tf/defences/former_arguments.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from parl_tf.defences.former_arguments import FORMER_ARGUMENTS
from parl_tf.errors import InputError
from parl_tf.training.fields import check_integer, check_names

FORMAT = 3
"""The format that this version writes."""


def migrated(document: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in the current format; arguments added since keep the former behaviour.

    Args:
        document: A configuration as read from its file, in this format or an older one.

    Raises:
        InputError: The format is missing or invalid, or a newer version wrote it.
    """
    found = document.get("format")
    if type(found) is not int or found < 1:
        raise InputError(f"Expected a format from 1 to {FORMAT}. Received: {found!r}.")
    if found > FORMAT:
        raise InputError(
            f"Expected a format of at most {FORMAT}, the newest that this version of parl_tf "
            f"reads. Received: {found}, written by a newer version. Update parl_tf to use it."
        )
    current = dict(document)
    for step in _STEPS[found - 1 :]:
        current = step(current)
    method, arguments = current.get("method"), current.get("arguments")
    if isinstance(method, str) and isinstance(arguments, Mapping):
        former = FORMER_ARGUMENTS.get(method, {})
        later = {name: value for name, value in former.items() if name not in arguments}
        current["arguments"] = {**arguments, **later}
    return {**current, "format": FORMAT}


def _from_1_to_2(document: dict[str, Any]) -> dict[str, Any]:
    """Adds the fields that were introduced while the number stayed 1, and the commit.

    A run without them used one device and was not deterministic; a recipe without them had the
    values below.
    """
    recipe, dataset = document.get("recipe"), document.get("dataset")
    if isinstance(recipe, Mapping):
        recipe = {"penalized": "convolutions", "pixel_deviation": "data_set", **recipe}
    if isinstance(dataset, Mapping):
        dataset = {"seed": None, **dataset}
    added = {"start_from": None, "deterministic": False, "devices": 1, "commit": None}
    changed = {"recipe": recipe, "dataset": dataset}
    return added | document | {name: value for name, value in changed.items() if name in document}


def _from_2_to_3(document: dict[str, Any]) -> dict[str, Any]:
    """Names the augmentation: shifts by up to `max_shift` pixels, with a black gap.

    What a recipe could not say yet was not done.

    Raises:
        InputError: The recipe has no `max_shift` from 0 to 999.
    """
    recipe = document.get("recipe")
    if not isinstance(recipe, Mapping):
        return document
    check_names(recipe, ["max_shift"], recipe, of="recipe.")
    recipe = dict(recipe)
    pixels = recipe.pop("max_shift")
    check_integer("recipe.max_shift", pixels, 0, 999)
    recipe = {
        "start_epochs": None,
        "warm_up": 0.0,
        "annealing": "cosine",
        "weight_decay": 0.0,
        "validation_fraction": None,
        **recipe,
        "augmentation": f"black-crops-{pixels}",
    }
    return {**document, "recipe": recipe}


_STEPS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_from_1_to_2, _from_2_to_3)
