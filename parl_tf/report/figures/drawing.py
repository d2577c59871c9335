"""Shared by all figures: the look of series, curves in panels, files."""

import dataclasses
import io
import math
import os
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette, which is safe for colour-blind readers, without its yellow, which is too
# light on white. Markers and dashes tell lines apart in greyscale.
_COLORS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
_MARKERS = "osDv^<>p*h8"
_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_FORMATS: Mapping[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}

Point = tuple[float, float, float | None]
"""x, y and the deviation of y, where there is one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a figure.

    Attributes:
        label: Its name in the legend.
        points: Its points.
        index: Decides its look, so that a series looks the same in all panels and figures.
    """

    label: str
    points: Sequence[Point]
    index: int


class ReportFigure(Figure):
    """A figure that notebooks display without pyplot."""

    def _repr_png_(self) -> bytes:
        """The figure as a PNG file, for notebooks."""
        return figure_bytes(self, "png")


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of a series; every second marker is hollow."""
    color = _COLORS[index % len(_COLORS)]
    return {
        "color": color,
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _DASHES[(index + index // len(_COLORS)) % len(_DASHES)],
        "markersize": 5.5,
        "markerfacecolor": "white" if index % 2 else color,
        "linewidth": 1.5,
    }


def drawn(text: str) -> str:
    """Text escaped so that matplotlib shows it literally, in a legend too."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def draw_curves(panels: Mapping[str, Sequence[Series]], title: str) -> Figure:
    """Draws accuracy in per cent against epsilon.

    Args:
        panels: Series by the title of their panel; at least one with points.
        title: Title of the figure.
    """
    columns = min(len(panels), 4 if len(panels) in (4, 7, 8) else 3)
    rows = math.ceil(len(panels) / columns)
    figure = ReportFigure(figsize=(max(3.0 * columns, 5.0), 2.7 * rows + 1.4), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    found: dict[str, Any] = {}
    for axis, (name, series) in zip(axes, panels.items(), strict=False):
        for line in series:
            if line.points:
                found.setdefault(line.label, _draw(axis, line))
        axis.set(title=drawn(name), xlabel="epsilon (pixels in [0, 1])", ylim=(-2, 102))
        axis.xaxis.set_major_locator(MaxNLocator(4))  # more would overlap
        axis.grid(alpha=0.3)
        axis.tick_params(labelbottom=True)  # also above an empty panel
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis in axes[: len(panels) : columns]:
        axis.set_ylabel("vote accuracy (%)")
    finish(figure, found, title)
    return figure


def finish(figure: Figure, found: Mapping[str, Any], title: str) -> None:
    """Adds a title, wrapped to the figure's width, and a legend below."""
    width = int(figure.get_figwidth() * 12)
    labels = [drawn(label) for label in found]
    longest = max(map(len, labels), default=1)
    ncols = max(1, min(len(labels), 5, width // (longest + 7)))
    figure.legend(
        list(found.values()), labels, loc="outside lower center", ncols=ncols, frameon=False
    )
    figure.suptitle("\n".join(textwrap.wrap(title, width)), fontsize="medium")


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """Reproducible content of a figure's file; `kind` is "png" or "svg"."""
    content = io.BytesIO()
    if figure.get_layout_engine():  # laid out once, so that all formats agree
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
    with matplotlib.rc_context({"svg.hashsalt": "parl_tf"}):
        figure.savefig(content, format=kind, dpi=150, metadata=_FORMATS[kind])
    return content.getvalue()


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure to a file whose extension decides the format."""
    kind = pathlib.Path(path).suffix.removeprefix(".").lower()
    with matplotlib.rc_context({"svg.hashsalt": "parl_tf"}):
        figure.savefig(path, dpi=150, metadata=_FORMATS.get(kind))


def _draw(axis: Axes, line: Series) -> Line2D:
    """Draws a series, with error bars where its points have deviations."""
    x, y, deviations = zip(*line.points, strict=True)
    (drawn_line,) = axis.plot(x, y, **look(line.index))
    bars = [(a, b, d) for a, b, d in zip(x, y, deviations, strict=True) if d is not None]
    if bars:
        at, height, size = zip(*bars, strict=True)
        color = look(line.index)["color"]
        axis.errorbar(at, height, size, fmt="none", ecolor=color, capsize=2.5, elinewidth=0.9)
    return drawn_line
