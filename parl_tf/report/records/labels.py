"""How settings, attacks and data sets are called in tables and figures, and in which order."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from parl_tf.attacks import ATTACKS
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
_DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_LONGEST = 60


def plain(text: object) -> str:
    """A name of a stranger's on one line: without control characters, and not endless."""
    printable = "".join(letter if letter.isprintable() else " " for letter in str(text))
    short = " ".join(printable.split())
    return short if len(short) <= _LONGEST else f"{short[: _LONGEST - 1]}…"


def setting_of(card: ModelCard) -> str:
    """Label of the way in which a target was trained; without a configuration its own name."""
    config = card.config or {}
    method, arguments = config.get("method"), config.get("arguments")
    if not isinstance(method, str) or not isinstance(arguments, Mapping):
        return plain(card.name)
    label = _METHODS.get(method, plain(method))
    if method in _BY_LAYERS:
        label += f"/{plain(arguments.get('num_layers'))}"
    return f"{label} + AT" if arguments.get("adversarial_training") else label


def seed_of(card: ModelCard) -> int | None:
    """Seed that a target was trained from, where known."""
    seed = (card.config or {}).get("seed")
    return seed if isinstance(seed, int) else None


def attack_label(attack: str) -> str:
    """Name of an attack as papers print it."""
    entry = ATTACKS.entries.get(attack)
    return entry.label if entry else plain(attack)


def dataset_name(data: Mapping[str, Any]) -> str:
    """Name of the data set of a record's images."""
    name = data.get("name")
    return plain(name) if isinstance(name, str) and plain(name) else "images"


def dataset_label(name: str) -> str:
    """Name of a data set as papers print it."""
    return _DATASETS.get(name, name)


def ordered_settings(settings: Iterable[str]) -> list[str]:
    """Distinct settings: the paper's, TRS, Guardian, other PARL/K, adversarial training, others."""
    return sorted(dict.fromkeys(settings), key=_setting_rank)


def ordered_datasets(names: Iterable[str]) -> list[str]:
    """Distinct data sets: the paper's two, then others."""
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
