"""Sentences in the captions and notes of tables and figures."""

import math
from collections.abc import Sequence
from typing import Any

from parl_tf.report.records.labels import attack_label, ordered_settings, sanitized
from parl_tf.report.records.selection import Group
from parl_tf.results.keys import AttackKey
from parl_tf.training.config import RunConfig

DEVIATION = (
    "Accuracy of the majority vote in per cent: mean ± sample standard deviation over training "
    "seeds."
)
WORST_MEANS = (
    "In a worst case an image counts as correct only if the vote is correct under every attack, "
    "restart and surrogate considered."
)


def on_images(number: int) -> str:
    """A number of images, and the standard error of an accuracy on them."""
    error = 50 / math.sqrt(number)
    return f"n = {number:,} test images; the standard error is at most {error:.1f} points."


def described(attack: AttackKey) -> str:
    """An attack with its hyperparameters in brackets."""
    known = {name: value for name, value in attack.hyperparameters.items() if value is not None}
    given = [f"{sanitized(name)} {sanitized(value)}" for name, value in known.items()]
    label = attack_label(attack.name)
    return f"{label} ({', '.join(given)})" if given else label


def trained(results: Sequence[Any], who: str = "Targets") -> list[str]:
    """How many epochs of how many images targets were trained for, in at most one sentence."""
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
    """How many epochs of how many images one target was trained for."""
    if config is None:
        return "an unrecorded number of epochs"
    epochs, examples = config.recipe.epochs, config.dataset.train_examples
    return f"{epochs} epoch{'s' if epochs > 1 else ''} of {examples:,} images"
