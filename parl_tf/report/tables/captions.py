"""Sentences below tables and figures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from parl_tf.report.records.labels import attack_label, ordered_settings, plain
from parl_tf.report.records.selection import Group
from parl_tf.results.keys import AttackKey

DEVIATION = (
    "Vote accuracy in per cent; ± is the sample standard deviation over training seeds, whose "
    "number stands beside it."
)
WORST_MEANS = (
    "A worst case counts an image only if the vote stays right under every one of the attacks, "
    "restarts and surrogates in question."
)


def on_images(number: int) -> str:
    """What a number of images allows to say."""
    error = 50 / math.sqrt(number)
    return f"n = {number:,} test images: one standard error is up to {error:.1f} points."


def described(attack: AttackKey) -> str:
    """An attack with its hyperparameters in brackets."""
    given = [f"{plain(k)} {plain(v)}" for k, v in attack.hyperparameters.items() if v is not None]
    label = attack_label(attack.name)
    return f"{label} ({', '.join(given)})" if given else label


def trained(results: Sequence[Any], who: str = "Targets") -> list[str]:
    """How long targets were trained and on how much, where known, as at most one sentence."""
    told: dict[str, list[str]] = {}
    for setting in ordered_settings(item.setting for item in results):
        config = next(item.record.target.config for item in results if item.setting == setting)
        told.setdefault(_training(config or {}), []).append(setting.label)
    if not told:
        return []
    if len(told) == 1:
        return [f"{who} were trained for {next(iter(told))}."]
    parts = [f"{text} ({', '.join(settings)})" for text, settings in told.items()]
    return [f"{who} were trained for {'; '.join(parts)}."]


def threat(group: Group) -> str:
    """The threat model of a group."""
    return group.threat_model.replace("_", " ")


def _training(config) -> str:
    """How long one target was trained and on how much."""
    recipe, dataset = config.get("recipe"), config.get("dataset")
    epochs = recipe.get("epochs") if isinstance(recipe, Mapping) else None
    examples = dataset.get("train_examples") if isinstance(dataset, Mapping) else None
    if not isinstance(epochs, int) or not isinstance(examples, int):
        return "a time that their files do not tell"
    return f"{epochs} epoch{'s' if epochs > 1 else ''} of {examples:,} images"
