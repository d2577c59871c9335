"""The paper's figures, drawn for each data set that has the records for it."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from parl_tf.report.figures.curves import black_box_figure, white_box_figure
from parl_tf.report.figures.directions import gradient_figure
from parl_tf.report.figures.layers import similarity_figure
from parl_tf.report.records.collection import Collection, Origin
from parl_tf.report.records.labels import dataset_label, ordered_datasets, ordered_settings
from parl_tf.report.tables.captions import on_images, trained

_BARS = (
    "Points are means over training seeds; bars are one sample standard deviation. PGD is the mean "
    "over restarts, PGD worst the per-image worst case over them."
)
_BANDS = (
    "Solid lines are biased CKA, as in the paper; dashed lines are unbiased CKA, which wide layers "
    "and few images do not inflate. Bands are one sample standard deviation over training seeds."
)
_DRAWN: dict[int, tuple[str, str, Callable[..., Any], dict[str, bool]]] = {
    1: (
        "Figure 1: loss gradients of members and the angle between them",
        "Top: the two members of an unprotected ensemble whose gradients on this image are most "
        "alike. Bottom: the two members of PARL whose gradients are least alike. Both are chosen "
        "extremes; the mean over all pairs and images is given next to them. Gradients are "
        "averaged over colour channels.",
        gradient_figure,
        {},
    ),
    2: (
        "Figure 2: CKA between members by layer, unprotected and with PARL",
        _BANDS,
        similarity_figure,
        {},
    ),
    3: ("Figure 3: accuracy against epsilon, black box", _BARS, black_box_figure, {}),
    4: ("Figure 4: accuracy against epsilon, white box", _BARS, white_box_figure, {}),
    5: (
        "Figure 5: accuracy against epsilon for PARL's numbers of layers, black box",
        _BARS,
        black_box_figure,
        {"of_layers": True},
    ),
    6: (
        "Figure 6: CKA between members by layer, for PARL's numbers of layers",
        _BANDS,
        similarity_figure,
        {"of_layers": True},
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure of the report.

    Attributes:
        number: Its number in the paper.
        name: Name of its files, without extension.
        title: Its title.
        caption: Its caption.
        alternative: Text for readers who do not see the image.
        figure: The figure.
        origins: Results that it shows.
    """

    number: int
    name: str
    title: str
    caption: str
    alternative: str
    figure: Figure
    origins: list[Origin]


def draw_all(collection: Collection) -> list[Drawing]:
    """Draws all figures that have records, by number and data set."""
    items: list[Origin] = [*collection.results, *collection.measurements]
    datasets = ordered_datasets(item.dataset for item in items)
    names = file_names(datasets)
    drawings = []
    for number, (title, caption, draw, options) in _DRAWN.items():
        for dataset in datasets:
            made = draw(collection, dataset, **options)
            if made is None:
                continue
            figure, origins = made
            label = dataset_label(dataset)
            settings = [s.label for s in ordered_settings(o.setting for o in origins)]
            images = on_images(origins[0].record.data["num_examples"])
            facts = [caption, images, *trained(origins)]
            drawings.append(
                Drawing(
                    number=number,
                    name=f"figure{number}{names[dataset]}",
                    title=f"{title}, {label}",
                    caption=" ".join(facts if number in (3, 4, 5) else [caption, *facts[2:]]),
                    alternative=f"{title}. {label}: {', '.join(settings)}.",
                    figure=figure,
                    origins=origins,
                )
            )
    return drawings


def not_drawn(drawings: Sequence[Drawing]) -> list[str]:
    """Titles of the figures without records."""
    made = {drawing.number for drawing in drawings}
    return [title for number, (title, *_) in _DRAWN.items() if number not in made]


def file_names(datasets: Sequence[str]) -> dict[str, str]:
    """Suffixes of the figures' names, by data set; empty if there is only one data set."""
    if len(datasets) < 2:
        return dict.fromkeys(datasets, "")
    names: dict[str, str] = {}
    for dataset in datasets:
        short = re.sub("[^a-z0-9]+", "-", dataset.lower()).strip("-") or "images"
        name, number = f"-{short}", 2
        while name in names.values():
            name, number = f"-{short}-{number}", number + 1
        names[dataset] = name
    return names
