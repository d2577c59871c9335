"""Names of settings, attacks and data sets in tables and figures, and their order."""

from collections.abc import Iterable, Mapping
from typing import Any

from parl_tf.attacks import ATTACKS
from parl_tf.results.records import ModelCard
from parl_tf.results.settings import Setting, sanitized

PAPER_DATASETS = ("cifar10", "cifar100")
NOT_RUN, NOT_GIVEN = "not run", "not given"

_DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def seed_of(card: ModelCard) -> int | None:
    """Seed that a target was trained from, where known."""
    return card.config.seed if card.config else None


def attack_label(attack: str) -> str:
    """Name of an attack as it is printed in papers."""
    entry = ATTACKS.entries.get(attack)
    return entry.label if entry else sanitized(attack)


def dataset_name(data: Mapping[str, Any]) -> str:
    """Name of the data set that a record's images are from; "images" where it is unknown."""
    name = data.get("name")
    return sanitized(name) if isinstance(name, str) and sanitized(name) else "images"


def dataset_label(name: str) -> str:
    """Name of a data set as it is printed in papers."""
    return _DATASETS.get(name, name)


def ordered_settings(settings: Iterable[Setting]) -> list[Setting]:
    """Distinct settings in the order of the tables."""
    return sorted(set(settings))


def ordered_datasets(names: Iterable[str]) -> list[str]:
    """Distinct data sets: the paper's two first, then others by name."""
    found = sorted(dict.fromkeys(names))
    return [name for name in PAPER_DATASETS if name in found] + [
        name for name in found if name not in PAPER_DATASETS
    ]


def ordered_attacks(attacks: Iterable[str]) -> list[str]:
    """Distinct attacks in the order of their registry, then unknown ones."""
    known = list(ATTACKS)
    return sorted(
        dict.fromkeys(attacks),
        key=lambda name: (known.index(name), "") if name in known else (len(known), name),
    )
