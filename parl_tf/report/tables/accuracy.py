"""One evaluation at a glance, as a table."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from parl_tf.errors import InputError
from parl_tf.report.records.labels import NOT_RUN, attack_label, sanitized
from parl_tf.results.keys import AttackKey
from parl_tf.results.records import Record

_ON_ITSELF = "itself"
_ABSENT = object()

T = TypeVar("T")


def accuracy_table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Vote accuracies as a table of text cells, a row for each target, surrogate and epsilon.

    Args:
        records: Records of one evaluation: the same images for all.

    Returns:
        Header and rows. Accuracies are percentages. An attack with restarts has two columns: their
        mean, and the per-example worst case over them. If examples were crafted on several models,
        each model has its own rows. A cell without a record reads "not run".

    Raises:
        InputError: Two records of one target, surrogate, attack and epsilon.

    Example:
        >>> header, rows = parl_tf.accuracy_table(records)
        >>> header
        ['target', 'epsilon', 'clean', 'FGSM', 'PGD mean', 'PGD worst']
    """
    if len({record.key for record in records}) < len(records):
        raise InputError(
            "Expected one record for each target, surrogate, attack and epsilon. Received: two "
            "for one of them."
        )
    attacked = [record for record in records if record.attack != "clean"]
    columns: list[tuple[AttackKey, str]] = []
    header = ["epsilon", "clean"]
    for attack, name in attack_names(attacked).items():
        restarted = any(len(r.correct) > 1 for r in attacked if r.attack_key == attack)
        kinds = ("mean", "worst") if restarted else ("mean",)
        columns += [(attack, kind) for kind in kinds]
        header += [f"{name} {kind}" for kind in kinds] if restarted else [name]
    made_on = distinct(map(crafted_on, attacked))
    several = len(made_on) > 1
    header = ["target", *(["crafted on"] if several else []), *header]
    found = {(r.target.name, crafted_on(r), r.attack_key, r.epsilon): r for r in records}
    rows = []
    for target in distinct(record.target.name for record in records):
        clean = next((r for r in records if (r.target.name, r.attack) == (target, "clean")), None)
        for made in made_on or [""]:
            same = [record for record in attacked if crafted_on(record) == made]
            for epsilon in sorted({record.epsilon for record in same}) or [0.0]:
                row = [target, *([made] if several else []), f"{epsilon:g}"]
                row.append(_percent(clean, "mean"))
                row += [
                    _percent(found.get((target, made, attack, epsilon)), kind)
                    for attack, kind in columns
                ]
                rows.append(row)
    return header, rows


def attack_names(attacked: Iterable[Record]) -> dict[AttackKey, str]:
    """A name for each attack, with the hyperparameters that tell it from others of its name."""
    names: dict[AttackKey, str] = {}
    keys = distinct(record.attack_key for record in attacked)
    for key in keys:
        alike = [other.hyperparameters for other in keys if other.name == key.name]
        every = sorted({name for given in alike for name in given})
        apart = [name for name in every if len({given.get(name, _ABSENT) for given in alike}) > 1]
        own = key.hyperparameters
        values = [sanitized(own[name]) if name in own else f"no {name}" for name in apart]
        names[key] = attack_label(key.name) + (f" ({', '.join(values)})" if values else "")
    return names


def crafted_on(record: Record) -> str:
    """The model that a record's examples were crafted on; empty for clean images."""
    if record.attack == "clean":
        return ""
    return record.surrogate.name if record.surrogate else _ON_ITSELF


def distinct(values: Iterable[T]) -> list[T]:
    """Distinct values in the order of their first appearance."""
    return list(dict.fromkeys(values))


def _percent(record: Record | None, kind: str) -> str:
    """An accuracy as a percentage, or "not run" if there is no record."""
    if record is None:
        return NOT_RUN
    return f"{100 * (record.accuracy if kind == 'mean' else record.worst_case_accuracy):.1f}"
