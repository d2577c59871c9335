"""One evaluation at a glance, as a figure."""

import os
from collections.abc import Sequence

from matplotlib.figure import Figure

from parl_tf.errors import InputError
from parl_tf.report.figures.drawing import Point, Series, draw_curves, drawn, save_figure
from parl_tf.report.records.labels import attack_label, dataset_label, dataset_name, sanitized
from parl_tf.report.tables.accuracy import attack_names, crafted_on, distinct
from parl_tf.results.keys import AttackKey
from parl_tf.results.records import Record

_THREATS = {"black_box": "black box", "white_box": "white box"}


def accuracy_figure(records: Sequence[Record], path: str | os.PathLike | None = None) -> Figure:
    """Draws accuracy against epsilon, a panel for each attack and a line for each target.

    Args:
        records: Records of one evaluation, crafted on one surrogate or on each target itself.
        path: File to write; its extension decides the format.

    Returns:
        The figure.

    Raises:
        InputError: No record of an attack, or examples crafted on several models.

    Example:
        >>> figure = parl_tf.accuracy_figure(records, "accuracy.png")
    """
    attacked = [record for record in records if record.attack != "clean"]
    if not attacked:
        raise InputError("Expected records of at least one attack to draw. Received: none.")
    made_on = distinct(map(crafted_on, attacked))
    if len(made_on) > 1:
        raise InputError(
            f"Expected records of one surrogate in a figure. Received: {', '.join(made_on)}."
        )
    targets = distinct(record.target.name for record in records)
    panels = {
        name: [
            Series(label=target, points=_points(records, target, attack), index=index)
            for index, target in enumerate(targets)
        ]
        for attack, name in attack_names(attacked).items()
    }
    figure = draw_curves(panels, _title(attacked))
    if path is not None:
        save_figure(figure, path)
    return figure


def _points(records: Sequence[Record], target: str, attack: AttackKey) -> list[Point]:
    """Epsilon and accuracy in per cent, without deviation, on clean images and under one attack."""
    own = [record for record in records if record.target.name == target]
    chosen = [r for r in own if r.attack == "clean" or r.attack_key == attack]
    return sorted((record.epsilon, 100 * record.accuracy, None) for record in chosen)


def _title(attacked: Sequence[Record]) -> str:
    """Title of a figure: data set, threat model, number of images and of restarts."""
    first = attacked[0]
    source = f" from {sanitized(first.surrogate.name)}" if first.surrogate else ""
    parts = [
        dataset_label(dataset_name(first.data)),
        _THREATS[first.threat_model] + source,
        f"n = {first.num_examples}",
    ]
    restarts = {attack_label(r.attack): len(r.correct) for r in attacked if len(r.correct) > 1}
    parts += [f"{attack} mean of {count} restarts" for attack, count in restarts.items()]
    return drawn(", ".join(parts))
