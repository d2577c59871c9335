"""The paper's figures, for each data set with the records they need."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from parl_tf.report.figures.curves import black_box_figure, white_box_figure
from parl_tf.report.figures.directions import gradient_figure
from parl_tf.report.figures.layers import similarity_figure
from parl_tf.report.records.collection import Collection
from parl_tf.report.records.labels import dataset_label, ordered_datasets, ordered_settings
from parl_tf.report.tables.captions import on_images, trained
from parl_tf.report.tables.cells import Origin

_BARS = (
    "Points are means over training seeds, bars one sample standard deviation. PGD is the mean "
    "over restarts, PGD worst the per-image worst case over them."
)
_BANDS = (
    "Solid: biased, as in the paper; dashed: unbiased, which wide layers and few images do not "
    "raise. Bands are one sample standard deviation over training seeds."
)
_DRAWN: dict[int, tuple[str, str, Callable[..., Any], dict[str, bool]]] = {
    1: (
        "Figure 1: loss gradients of members, and the angle between them",
        "Above the two members of an unprotected ensemble whose gradients on this image are most "
        "alike, below the two of PARL whose gradients are least alike: chosen extremes, with the "
        "mean over all pairs and images beside them. Gradients are means over colours.",
        gradient_figure,
        {},
    ),
    2: (
        "Figure 2: how alike members see, layer by layer, unprotected and with PARL",
        _BANDS,
        similarity_figure,
        {},
    ),
    3: ("Figure 3: accuracy against epsilon, black box", _BARS, black_box_figure, {}),
    4: ("Figure 4: accuracy against epsilon, white box", _BARS, white_box_figure, {}),
    5: (
        "Figure 5: accuracy against epsilon by PARL's number of layers, black box",
        _BARS,
        black_box_figure,
        {"of_layers": True},
    ),
    6: (
        "Figure 6: how alike members see, by PARL's number of layers",
        _BANDS,
        similarity_figure,
        {"of_layers": True},
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure of the report.

    Attributes:
        number: The paper's number of it.
        name: Name of its files, without ending.
        title: Its title.
        caption: Sentences below it.
        alternative: What it shows, for those who do not see it.
        figure: The figure.
        origins: Results drawn.
    """

    number: int
    name: str
    title: str
    caption: str
    alternative: str
    figure: Figure
    origins: list[Origin]


def draw_all(collection: Collection) -> list[Drawing]:
    """All figures whose records are there, by number and data set."""
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
    """What figures of each data set have behind their number: nothing if there is only one."""
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
