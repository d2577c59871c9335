"""How settings, attacks and data sets are called in tables and figures, and in which order."""

from collections.abc import Iterable, Mapping
from typing import Any

from parl_tf.results.records import ModelCard
from parl_tf.results.settings import Setting, sanitized

PAPER_DATASETS = ("cifar10", "cifar100")
NOT_RUN, NOT_GIVEN = "not run", "not given"

_ATTACKS = {
    "fgsm": "FGSM",
    "bim": "BIM",
    "mim": "MIM",
    "pgd": "PGD",
    "mi-fgsm": "MI-FGSM",
    "mdi2-fgsm": "M-DI2-FGSM",
    "sgm": "SGM",
    "apgd": "APGD",
    "square": "Square",
    "hop-skip-jump": "HopSkipJump",
    "uniform-noise": "uniform noise",
}
_DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
plain = sanitized


def seed_of(card: ModelCard) -> int | None:
    """Seed that a target was trained from, where known."""
    return card.config.seed if card.config else None


def attack_label(attack: str) -> str:
    """Name of an attack as papers print it."""
    return _ATTACKS.get(attack, plain(attack))


def dataset_name(data: Mapping[str, Any]) -> str:
    """Name of the data set of a record's images."""
    name = data.get("name")
    return plain(name) if isinstance(name, str) and plain(name) else "images"


def dataset_label(name: str) -> str:
    """Name of a data set as papers print it."""
    return _DATASETS.get(name, name)


def ordered_settings(settings: Iterable[Setting]) -> list[Setting]:
    """Distinct settings in the order of the tables."""
    return sorted(set(settings))


def ordered_datasets(names: Iterable[str]) -> list[str]:
    """Distinct data sets: the paper's two, then others."""
    found = sorted(dict.fromkeys(names))
    return [name for name in PAPER_DATASETS if name in found] + [
        name for name in found if name not in PAPER_DATASETS
    ]


def ordered_attacks(attacks: Iterable[str]) -> list[str]:
    """Distinct attacks, in the order of the tables."""
    known = list(_ATTACKS)
    return sorted(
        dict.fromkeys(attacks),
        key=lambda name: (known.index(name), "") if name in known else (len(known), name),
    )
