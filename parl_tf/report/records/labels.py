"""Names of settings, attacks and data sets in tables and figures, and their order."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from parl_tf.results.records import ModelCard

PAPER_SETTINGS = ("ENS_U", "ADP", "GAL", "DVERGE", "PARL/7")
PAPER_DATASETS = ("cifar10", "cifar100")
NOT_RUN, NOT_GIVEN = "not run", "not given"

_METHODS = {
    "unprotected": "ENS_U",
    "adp": "ADP",
    "gal": "GAL",
    "dverge": "DVERGE",
    "parl": "PARL",
    "trs": "TRS",
    "guardian": "Guardian",
}
_BY_LAYERS = ("parl", "guardian")
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
_LONGEST = 60


def sanitized(text: object) -> str:
    """Text from a file on one line of at most 60 characters, without control characters."""
    printable = "".join(letter if letter.isprintable() else " " for letter in str(text))
    short = " ".join(printable.split())
    return short if len(short) <= _LONGEST else f"{short[: _LONGEST - 1]}…"


def setting_of(card: ModelCard) -> str:
    """Label of the way in which a target was trained; without a configuration its own name."""
    config = card.config or {}
    method, arguments = config.get("method"), config.get("arguments")
    if not isinstance(method, str) or not isinstance(arguments, Mapping):
        return sanitized(card.name)
    label = _METHODS.get(method, sanitized(method))
    if method in _BY_LAYERS:
        label += f"/{sanitized(arguments.get('num_layers'))}"
    return f"{label} + AT" if arguments.get("adversarial_training") else label


def seed_of(card: ModelCard) -> int | None:
    """Seed that a target was trained from, where known."""
    seed = (card.config or {}).get("seed")
    return seed if isinstance(seed, int) else None


def attack_label(attack: str) -> str:
    """Name of an attack as it is printed in papers."""
    return _ATTACKS.get(attack, sanitized(attack))


def dataset_name(data: Mapping[str, Any]) -> str:
    """Name of the data set that a record's images are from; "images" where it is unknown."""
    name = data.get("name")
    return sanitized(name) if isinstance(name, str) and sanitized(name) else "images"


def dataset_label(name: str) -> str:
    """Name of a data set as it is printed in papers."""
    return _DATASETS.get(name, name)


def ordered_settings(settings: Iterable[str]) -> list[str]:
    """Distinct settings: the paper's, TRS, Guardian, other PARL/K, adversarial training, others."""
    return sorted(dict.fromkeys(settings), key=_setting_rank)


def ordered_datasets(names: Iterable[str]) -> list[str]:
    """Distinct data sets: the paper's two first, then others by name."""
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


def num_layers_of(setting: str) -> int | None:
    """K of a setting PARL/K without adversarial training; None for another one."""
    found = re.fullmatch(r"PARL/(\d{1,9})", setting)
    return int(found[1]) if found else None


def _setting_rank(setting):
    """Where a setting stands."""
    base = setting.removesuffix(" + AT")
    layers = num_layers_of(base)
    if base in PAPER_SETTINGS:
        rank = (0, PAPER_SETTINGS.index(base))
    elif base == "TRS":
        rank = (1, 0)
    elif base.startswith("Guardian/"):
        rank = (2, 0)
    elif layers is not None:
        rank = (3, -layers)
    else:
        rank = (4, 0)
    return (setting != base, *rank, setting)
