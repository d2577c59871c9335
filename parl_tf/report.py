"""Result records as tables and figures."""

import os
from collections.abc import Iterable, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from parl_tf.errors import InputError
from parl_tf.records import Record

# Okabe and Ito's palette, told apart by the colour-blind; markers tell lines apart in grey.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^Dvp*"
_THREATS = {"black_box": "black box", "white_box": "white box"}


def accuracy_table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Vote accuracies as a table of text cells, a row for each target and epsilon.

    Args:
        records: Records of one evaluation: one threat model, the same images for all.

    Returns:
        Header and rows. Accuracies are percentages; an attack with restarts has a column for
        their mean and one for the per-example worst case. A cell without a record says so.

    Raises:
        InputError: Two records of one target, attack and epsilon.
    """
    attacked = [record for record in records if record.attack != "clean"]
    columns = []
    for attack in _ordered(record.attack for record in attacked):
        columns.append((attack, "mean"))
        if any(len(record.correct) > 1 for record in attacked if record.attack == attack):
            columns.append((attack, "worst"))
    several = {attack for attack, kind in columns if kind == "worst"}
    header = ["target", "epsilon", "clean"]
    for attack, kind in columns:
        header.append(attack.upper() + (f" {kind}" if attack in several else ""))
    keys = [(record.target, record.attack, record.epsilon) for record in records]
    if len(set(keys)) < len(keys):
        raise InputError("Expected one record for each target, attack and epsilon.")
    found = {(record.target, record.attack, record.epsilon): record for record in records}
    rows = []
    for target in _ordered(record.target for record in records):
        for epsilon in sorted({record.epsilon for record in attacked}) or [0.0]:
            row = [target, f"{epsilon:g}", _percent(found.get((target, "clean", 0.0)), "mean")]
            row += [
                _percent(found.get((target, attack, epsilon)), kind) for attack, kind in columns
            ]
            rows.append(row)
    return header, rows


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text cells in Markdown, all but the first column aligned right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def accuracy_figure(records: Sequence[Record], path: str | os.PathLike) -> None:
    """Draws accuracy against epsilon, a panel for each attack and a line for each target.

    Args:
        records: Records of one evaluation, as for `accuracy_table`.
        path: File to write; its ending decides the format.

    Raises:
        InputError: No record of an attack.
    """
    attacks = _ordered(record.attack for record in records if record.attack != "clean")
    if not attacks:
        raise InputError("Expected records of at least one attack to draw.")
    targets = _ordered(record.target for record in records)
    figure = Figure(figsize=(3.1 * len(attacks) + 0.4, 3.7), layout="constrained")
    panels = figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    for panel, attack in zip(panels, attacks, strict=True):
        for index, target in enumerate(targets):
            points = sorted(
                (record.epsilon, 100 * record.accuracy)
                for record in records
                if record.target == target and record.attack in ("clean", attack)
            )
            panel.plot(
                *zip(*points, strict=True),
                label=target,
                color=_COLORS[index % len(_COLORS)],
                marker=_MARKERS[index % len(_MARKERS)],
            )
        panel.set(title=attack.upper(), xlabel="epsilon (pixels in [0, 1])", ylim=(-2, 102))
        panel.xaxis.set_major_locator(MaxNLocator(4))  # more would run into each other
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("vote accuracy (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(_title(records))
    with matplotlib.rc_context({"svg.hashsalt": "parl_tf"}):
        figure.savefig(path, dpi=150)


def _title(records: Sequence[Record]) -> str:
    """What a figure's numbers are of."""
    attacked = next(record for record in records if record.attack != "clean")
    source = f" from {attacked.surrogate}" if attacked.surrogate else ""
    parts = [
        str(attacked.data.get("name", "images")),
        _THREATS[attacked.threat_model] + source,
        f"n = {attacked.num_examples}",
    ]
    restarts = {r.attack.upper(): len(r.correct) for r in records if len(r.correct) > 1}
    parts += [f"{attack} mean of {count} restarts" for attack, count in restarts.items()]
    return ", ".join(parts)


def _ordered(names: Iterable[str]) -> list[str]:
    """Distinct names in the order of their first appearance."""
    return list(dict.fromkeys(names))


def _percent(record: Record | None, kind: str) -> str:
    """An accuracy as a percentage, or what stands where there is none."""
    if record is None:
        return "not run"
    return f"{100 * (record.accuracy if kind == 'mean' else record.worst_case_accuracy):.1f}"
