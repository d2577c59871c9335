"""One evaluation at a glance: its records as a table and a figure."""

import os
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

from parl_tf.errors import InputError
from parl_tf.report.drawing import Series, draw_curves, drawn, save_figure
from parl_tf.report.labels import NOT_RUN, attack_label, dataset_label, dataset_name, plain
from parl_tf.results.records import Record

_THREATS = {"black_box": "black box", "white_box": "white box"}
_ON_ITSELF = "itself"

Variant = tuple[str, str]


def accuracy_table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Vote accuracies as a table of text cells, a row for each target, surrogate and epsilon.

    Args:
        records: Records of one evaluation: the same images for all.

    Returns:
        Header and rows. Accuracies are percentages; an attack with restarts has a column for
        their mean and one for the per-example worst case. Examples crafted on several models
        stand in rows of their own. A cell without a record says so.

    Raises:
        InputError: Two records of one target, attack and epsilon.

    Example:
        >>> header, rows = parl_tf.accuracy_table(records)
        >>> header
        ['target', 'epsilon', 'clean', 'FGSM', 'PGD mean', 'PGD worst']
    """
    attacked = [record for record in records if record.attack != "clean"]
    names = _variants(attacked)
    columns = []
    for variant in _ordered(map(_variant, attacked)):
        columns.append((variant, "mean"))
        if any(len(r.correct) > 1 for r in attacked if _variant(r) == variant):
            columns.append((variant, "worst"))
    several = {variant for variant, kind in columns if kind == "worst"}
    made_on = _ordered(map(_made_on, attacked))
    header = ["target", *(["crafted on"] if len(made_on) > 1 else []), "epsilon", "clean"]
    for variant, kind in columns:
        header.append(names[variant] + (f" {kind}" if variant in several else ""))
    if len({record.key for record in records}) < len(records):
        raise InputError("Expected one record for each target, attack and epsilon.")
    found = {(r.target.name, _made_on(r), _variant(r), r.epsilon): r for r in records}
    rows = []
    for target in _ordered(record.target.name for record in records):
        clean = next((r for r in records if (r.target.name, r.attack) == (target, "clean")), None)
        for made in made_on or [""]:
            same = [record for record in attacked if _made_on(record) == made]
            for epsilon in sorted({record.epsilon for record in same}) or [0.0]:
                row = [target, *([made] if len(made_on) > 1 else []), f"{epsilon:g}"]
                row.append(_percent(clean, "mean"))
                row += [
                    _percent(found.get((target, made, variant, epsilon)), kind)
                    for variant, kind in columns
                ]
                rows.append(row)
    return header, rows


def accuracy_figure(records: Sequence[Record], path: str | os.PathLike | None = None) -> Figure:
    """Draws accuracy against epsilon, a panel for each attack and a line for each target.

    Args:
        records: Records of one evaluation, crafted on one surrogate or on each target itself.
        path: File to write; its ending decides the format.

    Returns:
        The figure.

    Raises:
        InputError: No record of an attack, or examples crafted on several models.

    Example:
        >>> figure = parl_tf.accuracy_figure(records, "accuracy.png")
    """
    attacked = [record for record in records if record.attack != "clean"]
    if not attacked:
        raise InputError("Expected records of at least one attack to draw.")
    made_on = _ordered(map(_made_on, attacked))
    if len(made_on) > 1:
        raise InputError(
            f"Expected records of one surrogate in a figure. Received: {', '.join(made_on)}."
        )
    names = _variants(attacked)
    targets = _ordered(record.target.name for record in records)
    panels = {}
    for variant in _ordered(map(_variant, attacked)):
        panels[names[variant]] = [
            Series(label=target, points=_points(records, target, variant), index=index)
            for index, target in enumerate(targets)
        ]
    figure = draw_curves(panels, _title(attacked))
    if path is not None:
        save_figure(figure, path)
    return figure


def _points(records, target, variant) -> list[tuple[float, float, float | None]]:
    """Epsilon, accuracy in per cent and no deviation, of clean images and one attack."""
    own = [record for record in records if record.target.name == target]
    chosen = [record for record in own if record.attack == "clean" or _variant(record) == variant]
    return sorted((record.epsilon, 100 * record.accuracy, None) for record in chosen)


def _variant(record) -> Variant:
    """An attack with its hyperparameters."""
    return record.attack, repr(sorted(record.hyperparameters.items()))


def _variants(attacked) -> dict[Variant, str]:
    """A name for each attack: with the hyperparameters that tell it from others of its name."""
    of_name: dict[str, dict[Variant, dict]] = {}
    for record in attacked:
        of_name.setdefault(record.attack, {})[_variant(record)] = record.hyperparameters
    names = {}
    for attack, settings in of_name.items():
        keys = sorted({key for given in settings.values() for key in given})
        apart = [k for k in keys if len({repr(g.get(k)) for g in settings.values()}) > 1]
        for variant, given in settings.items():
            values = ", ".join(plain(given.get(key)) for key in apart)
            names[variant] = attack_label(attack) + (f" ({values})" if values else "")
    return names


def _made_on(record) -> str:
    """What a record's examples were crafted on."""
    if record.attack == "clean":
        return ""
    return record.surrogate.name if record.surrogate else _ON_ITSELF


def _title(attacked: Sequence[Record]) -> str:
    """What a figure's numbers are of."""
    first = attacked[0]
    source = f" from {plain(first.surrogate.name)}" if first.surrogate else ""
    parts = [
        dataset_label(dataset_name(first.data)),
        _THREATS[first.threat_model] + source,
        f"n = {first.num_examples}",
    ]
    restarts = {attack_label(r.attack): len(r.correct) for r in attacked if len(r.correct) > 1}
    parts += [f"{attack} mean of {count} restarts" for attack, count in restarts.items()]
    return drawn(", ".join(parts))


def _ordered(names: Iterable) -> list:
    """Distinct values in the order of their first appearance."""
    return list(dict.fromkeys(names))


def _percent(record: Record | None, kind: str) -> str:
    """An accuracy as a percentage, or what stands where there is none."""
    if record is None:
        return NOT_RUN
    return f"{100 * (record.accuracy if kind == 'mean' else record.worst_case_accuracy):.1f}"
