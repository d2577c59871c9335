"""Configurations of runs that older versions wrote, brought to today's format step by step.

A change of the format is a number and a function here. An argument that a training method got
later is neither: it has a line in `parl_tf/defences/former_arguments.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from parl_tf.defences.former_arguments import FORMER_ARGUMENTS
from parl_tf.errors import InputError

FORMAT = 2
"""The format that this version writes."""


def migrated(document: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in today's format, with arguments that came later as they were before.

    Args:
        document: A configuration as its file has it, of this format or an older one.

    Raises:
        InputError: No format, or one of a newer version.
    """
    found = document.get("format")
    if type(found) is not int or found < 1:
        raise InputError(f"Expected a format from 1 to {FORMAT}. Received: {found!r}.")
    if found > FORMAT:
        raise InputError(
            f"Expected a format of at most {FORMAT}, as this version of parl_tf reads. Received: "
            f"{found}, which a newer version wrote. Update parl_tf to use it."
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
    """Adds what came while the number stayed 1, and the commit.

    Runs were on one device before they could be on several, and could not be deterministic before
    they said so. A recipe left out what it had at the values of before.
    """
    recipe, dataset = document.get("recipe"), document.get("dataset")
    if isinstance(recipe, Mapping):
        recipe = {"penalized": "convolutions", "pixel_deviation": "data_set", **recipe}
    if isinstance(dataset, Mapping):
        dataset = {"seed": None, **dataset}
    added = {"start_from": None, "deterministic": False, "devices": 1, "commit": None}
    changed = {"recipe": recipe, "dataset": dataset}
    return added | document | {name: value for name, value in changed.items() if name in document}


_STEPS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_from_1_to_2,)
