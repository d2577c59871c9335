"""Figures 2 and 6: CKA between members, layer by layer."""

import math
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from parl_tf.errors import InputError
from parl_tf.report.figures.drawing import ReportFigure, drawn, finish, look, save_figure
from parl_tf.report.records.collection import Collection, Measurement
from parl_tf.report.records.labels import dataset_label, ordered_settings, sanitized
from parl_tf.results.diversity import DiversityRecord
from parl_tf.results.settings import UNPROTECTED


def similarity_figure(
    collection: Collection, dataset: str, *, of_layers: bool = False
) -> tuple[Figure, list[Measurement]] | None:
    """Figure 2, or 6: CKA of each pair of members at each layer.

    Args:
        collection: Comparable records, as `agreed` returns them.
        dataset: Name of the data set.
        of_layers: Whether to draw PARL by number of layers (Figure 6), not an unprotected
            ensemble next to the PARL with the most layers (Figure 2).

    Returns:
        The figure and the measurements that it shows. None unless there are measurements of
        PARL and, in Figure 2, of an unprotected ensemble.

    Raises:
        InputError: Measurements of one setting differ in their number of layers or members.
    """
    here = [item for item in collection.measurements if item.dataset == dataset]
    parl = [s for s in ordered_settings(i.setting for i in here) if s.parl_layers]
    settings = parl if of_layers else [UNPROTECTED, *parl[:1]]
    chosen = {s: [item for item in here if item.setting == s] for s in settings}
    if not parl or not all(chosen.values()):
        return None
    drawn_from = {s.label: [item.record for item in items] for s, items in chosen.items()}
    figure = _figure(drawn_from, [collection.settings.index(setting) for setting in chosen])
    return figure, [item for items in chosen.values() for item in items]


def cka_figure(records: Sequence[DiversityRecord], path: str | os.PathLike | None = None) -> Figure:
    """Draws the CKA between members at each layer, a panel for each pair of members.

    Args:
        records: Measurements on the same images of ensembles with equally many members.
        path: File to write; its extension decides the format.

    Returns:
        The figure.

    Raises:
        InputError: No record, or records that differ in images or in the number of members.

    Example:
        >>> figure = parl_tf.cka_figure([measured], "cka.png")
    """
    by_name: dict[str, list[DiversityRecord]] = {}
    for record in records:
        by_name.setdefault(sanitized(record.target.name), []).append(record)
    images = {record.data["fingerprint"] for record in records}
    if len(images) != 1:
        raise InputError(
            f"Expected measurements on one set of images. Received: {len(images)} sets."
        )
    figure = _figure(by_name, range(len(by_name)))
    if path is not None:
        save_figure(figure, path)
    return figure


def _figure(by_name: dict[str, list[DiversityRecord]], ranks: Sequence[int]) -> Figure:
    """A panel for each pair of members; mean and deviation over the records of a name."""
    first = next(iter(by_name.values()))[0]
    pairs = first.pairs
    for name, records in by_name.items():
        shapes = {np.array(record.cka, float).shape for record in records}
        if len(shapes) > 1 or any(record.pairs != pairs for record in records):
            raise InputError(
                "Expected measurements with the same layers and members for one name. Received: "
                f"different ones for {name}."
            )
    columns = min(len(pairs), 3)
    rows = math.ceil(len(pairs) / columns)
    figure = ReportFigure(figsize=(max(3.2 * columns, 5.5), 2.9 * rows + 1.6), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    handles = {}
    for (name, records), rank in zip(by_name.items(), ranks, strict=True):
        biased, unbiased = (
            np.array([getattr(record, kind) for record in records], float)
            for kind in ("cka", "unbiased_cka")
        )
        for index, axis in enumerate(axes[: len(pairs)]):
            solid = _line(axis, biased[..., index], rank, "solid")
            dashed = _line(axis, unbiased[..., index], rank, "dashed")
        seeds = f", {len(records)} seeds" if len(records) > 1 else ""
        handles[f"{name}: mean {_mean(biased)}{seeds}"] = solid
        handles[f"{name}, unbiased: mean {_mean(unbiased)}"] = dashed
    for axis, pair in zip(axes, pairs, strict=False):
        axis.set(title=f"members {pair[0] + 1} and {pair[1] + 1}", xlabel="convolution")
        axis.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axis.tick_params(labelbottom=True)
        axis.grid(alpha=0.3)
    for axis in axes[len(pairs) :]:
        axis.remove()
    for axis in axes[: len(pairs) : columns]:
        axis.set_ylabel("linear CKA")
    title = [dataset_label(sanitized(first.data.get("name", "images")))]
    title += [f"n = {first.data['num_examples']}", f"{sanitized(first.tap)} outputs of the layers"]
    finish(figure, handles, drawn(", ".join(title)))
    return figure


def _line(axis: Axes, values: np.ndarray, rank: int, dashes: str) -> Line2D:
    """Draws the mean over seeds of values (seeds, layers), and their deviation as a band."""
    layers = np.arange(1, values.shape[1] + 1)
    mean = values.mean(axis=0)
    style = {**look(rank), "linestyle": dashes, "markersize": 4}
    (line,) = axis.plot(layers, mean, **style)
    if len(values) > 1:
        deviation = values.std(axis=0, ddof=1)
        axis.fill_between(
            layers, mean - deviation, mean + deviation, color=style["color"], alpha=0.15, lw=0
        )
    return line


def _mean(values: np.ndarray) -> str:
    """Mean over layers, pairs and seeds, of the defined values."""
    defined = values[np.isfinite(values)]
    return f"{defined.mean():.2f}" if defined.size else "not defined"
