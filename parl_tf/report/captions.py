"""Sentences below tables and figures."""

import math
from collections.abc import Sequence
from typing import Any

from parl_tf.report.labels import ordered_settings
from parl_tf.report.selection import Group
from parl_tf.training.config import RunConfig

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


def described(hyperparameters: tuple | None) -> str:
    """Hyperparameters in brackets."""
    given = [f"{name} {value}" for name, value in hyperparameters or () if value is not None]
    return f"({', '.join(given)})" if given else ""


def trained(results: Sequence[Any], who: str = "Targets") -> list[str]:
    """How long targets were trained and on how much, where known, as at most one sentence."""
    told: dict[str, list[str]] = {}
    for setting in ordered_settings(item.setting for item in results):
        config = next(item.record.target.config for item in results if item.setting == setting)
        told.setdefault(_training(config), []).append(setting.label)
    if not told:
        return []
    if len(told) == 1:
        return [f"{who} were trained for {next(iter(told))}."]
    parts = [f"{text} ({', '.join(settings)})" for text, settings in told.items()]
    return [f"{who} were trained for {'; '.join(parts)}."]


def threat(group: Group) -> str:
    """The threat model of a group."""
    return group.threat_model.replace("_", " ")


def _training(config: RunConfig | None) -> str:
    """How long one target was trained and on how much."""
    if config is None:
        return "an unrecorded number of epochs"
    epochs, examples = config.recipe.epochs, config.dataset.train_examples
    return f"{epochs} epoch{'s' if epochs > 1 else ''} of {examples:,} images"
