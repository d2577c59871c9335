"""Figures 3 to 5: accuracy against epsilon."""

from collections.abc import Callable, Iterable, Sequence

from matplotlib.figure import Figure

from parl_tf.report.figures.drawing import Point, Series, draw_curves, drawn
from parl_tf.report.records.collection import Collection, Result
from parl_tf.report.records.labels import (
    attack_label,
    dataset_label,
    ordered_settings,
)
from parl_tf.report.records.selection import (
    SINGLE_SURROGATE,
    WHITE_BOX,
    Group,
    find,
    groups_of,
    surrogate_labels,
    where,
)
from parl_tf.report.tables.cells import mean_accuracy, over_seeds
from parl_tf.results.settings import Setting


def black_box_figure(
    collection: Collection, dataset: str, *, of_layers: bool = False
) -> tuple[Figure, list[Result]] | None:
    """Figure 3, or 5: accuracy under transfer from the first surrogate.

    Args:
        collection: Comparable records, as `agreed` returns them.
        dataset: Name of the data set.
        of_layers: Whether to draw only PARL, by number of layers (Figure 5).

    Returns:
        The figure and the results that it shows; None if there are none.
    """
    group = find(groups_of(collection.results), dataset, "black_box", SINGLE_SURROGATE)
    if group is None:
        return None
    fingerprint = group.surrogates[0].fingerprint
    chosen = where(group.results, surrogate=fingerprint)
    if of_layers:
        chosen = [item for item in chosen if item.setting.parl_layers]
    return _figure(
        group, chosen, f"black box from {surrogate_labels(group)[fingerprint]}", collection
    )


def white_box_figure(collection: Collection, dataset: str) -> tuple[Figure, list[Result]] | None:
    """Figure 4: accuracy under attacks on the targets themselves.

    Args:
        collection: Comparable records, as `agreed` returns them.
        dataset: Name of the data set.

    Returns:
        The figure and the results that it shows; None if there are none.
    """
    group = find(groups_of(collection.results), dataset, "white_box", WHITE_BOX)
    return None if group is None else _figure(group, group.results, "white box", collection)


def _figure(
    group: Group, chosen: Sequence[Result], made: str, collection: Collection
) -> tuple[Figure, list[Result]] | None:
    """Accuracy against epsilon of some results of a group, a panel for each attack."""
    if not chosen:
        return None
    settings = ordered_settings(item.setting for item in chosen)
    clean = [item for item in group.clean if item.setting in settings]
    panels: dict[str, list[Series]] = {}
    used = [*clean]
    for attack in group.attacks:
        same = where(chosen, attack_key=group.standard(attack))
        if not same:
            continue
        used += same
        kinds: dict[str, Callable] = {attack_label(attack): mean_accuracy}
        if any(len(item.record.correct) > 1 for item in same):
            kinds[f"{attack_label(attack)} worst"] = _worst
        for name, value in kinds.items():
            panels[name] = [
                Series(
                    label=_label([*clean, *chosen], setting),
                    points=_points([*clean, *where(same, setting=setting)], setting, value),
                    index=collection.settings.index(setting),
                )
                for setting in settings
            ]
    parts = [dataset_label(group.dataset), made, f"n = {group.num_examples:,}"]
    parts += ["mean over restarts and seeds ± standard deviation over seeds"]
    return draw_curves(panels, drawn(", ".join(parts))), used


def _label(items: Iterable[Result], setting: Setting) -> str:
    """A setting with its number of seeds."""
    seeds = len({item.seed for item in items if item.setting == setting})
    return f"{setting.label} ({seeds} seed{'s' if seeds > 1 else ''})"


def _points(
    items: Iterable[Result], setting: Setting, value: Callable[[list], float | None]
) -> list[Point]:
    """Epsilon, mean and standard deviation of a setting."""
    own = [item for item in items if item.setting == setting]
    points = []
    for epsilon in sorted({item.record.epsilon for item in own}):
        cell = over_seeds([item for item in own if item.record.epsilon == epsilon], value)
        if cell.mean is not None:
            points.append((epsilon, cell.mean, cell.deviation))
    return points


def _worst(same: list[Result]) -> float | None:
    """Per-example worst case over the restarts of the first result, in per cent."""
    return 100 * same[0].record.worst_case_accuracy
