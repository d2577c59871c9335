"""Figure 1: an image, members' loss gradients, and the angle between them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from parl_tf.report.figures.drawing import ReportFigure, drawn
from parl_tf.report.records.collection import Collection, Measurement
from parl_tf.report.records.labels import dataset_label, ordered_settings
from parl_tf.results.settings import UNPROTECTED

_COLUMNS = 4


def gradient_figure(
    collection: Collection, dataset: str
) -> tuple[Figure, list[Measurement]] | None:
    """Figure 1: loss gradients of two members of an unprotected ensemble, and of two of PARL.

    Of the unprotected ensemble it shows the pair with the most similar gradients, of PARL the
    pair with the least similar ones.

    Args:
        collection: Comparable records, as `agreed` returns them.
        dataset: Name of the data set.

    Returns:
        The figure and the measurements that it shows; None unless an unprotected ensemble and
        PARL were measured on the same image.
    """
    here = [item for item in collection.measurements if item.dataset == dataset]
    parl = [s for s in ordered_settings(i.setting for i in here) if s.parl_layers]
    alike = next((item for item in here if item.setting == UNPROTECTED), None)
    diverse = next((item for item in here if parl and item.setting == parl[0]), None)
    if alike is None or diverse is None:
        return None
    if alike.record.example["image"] != diverse.record.example["image"]:
        return None
    figure = ReportFigure(figsize=(9.2, 5.4), layout="constrained")
    axes = figure.subplots(2, _COLUMNS)
    rows = ((alike, np.argmax, "most alike"), (diverse, np.argmin, "least alike"))
    for row, (item, choose, text) in zip(axes, rows, strict=True):
        _draw_row(row, item, choose, text)
    label = alike.record.example.get("label")
    title = f"{dataset_label(dataset)}, one test image (label {label}): loss gradients"
    figure.suptitle(drawn(title), fontsize="medium")
    return figure, [alike, diverse]


def _draw_row(
    row: Sequence[Axes], item: Measurement, choose: Callable[[list[float]], Any], text: str
) -> None:
    """The image, the gradients of a pair of members, and their directions."""
    gradients = np.array(item.record.example["gradients"], float)
    pairs = item.record.pairs
    cosines = [_cosine(gradients[i], gradients[j]) for i, j in pairs]
    index = int(choose(cosines))
    pictures = [_as_picture(np.array(item.record.example["image"], float))]
    pictures += [_as_picture(gradients[member], signed=True) for member in pairs[index]]
    titles = [item.setting.label, *(f"member {member + 1}" for member in pairs[index])]
    for axis, picture, title in zip(row, pictures, titles, strict=False):
        signed = picture.ndim == 2 and title != item.setting.label
        largest = (np.percentile(np.abs(picture), 99) or 1.0) if signed else 1.0
        colors, smallest = ("PuOr", -largest) if signed else ("gray", 0.0)
        axis.imshow(picture, colors, vmin=smallest, vmax=largest, interpolation="nearest")
        axis.set_title(drawn(title), fontsize="medium")
        axis.set_axis_off()
    mean = float(np.mean(item.record.gradient_cosines))
    _draw_directions(row[-1], cosines[index], [m + 1 for m in pairs[index]])
    row[-1].set_title(
        f"{text}: cosine {cosines[index]:.2f}\nall pairs and images: {mean:.2f}", fontsize="medium"
    )


def _draw_directions(axis: Axes, cosine: float, members: Sequence[int]) -> None:
    """Draws two arrows at the angle of a cosine."""
    angle = np.arccos(np.clip(cosine, -1, 1))
    turned = np.pi / 2 - angle / 2  # one arrow on either side of the vertical
    for member, at in zip(members, (turned, turned + angle), strict=True):
        x, y = np.cos(at), np.sin(at)
        arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.6, "shrinkA": 0}
        axis.annotate("", xy=(x, y), xytext=(0, 0), arrowprops=arrow)
        side = 0.14 if at < np.pi / 2 else -0.14
        axis.text(1.12 * x + side, 1.12 * y, str(member), ha="center", va="center")
    arc = np.linspace(turned, turned + angle, 50)
    axis.plot(0.35 * np.cos(arc), 0.35 * np.sin(arc), color="#0072B2", linewidth=1)
    axis.text(0, -0.1, f"{np.degrees(angle):.0f}°", ha="center", va="top", color="#0072B2")
    axis.set(xlim=(-1.35, 1.35), ylim=(-0.45, 1.35), aspect="equal")
    axis.set_axis_off()


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine of two gradients; 0 if one vanishes."""
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return float((one * other).sum() / norms) if norms > 0 else 0.0


def _as_picture(array: np.ndarray, *, signed: bool = False) -> np.ndarray:
    """An array (height, width, channels) in colour if possible, else as the mean over channels."""
    if not signed and array.shape[-1] == 3:
        return np.clip(array, 0, 1)
    return array.mean(axis=-1)
