"""The report as one HTML page that needs no other file."""

import base64
import functools
from collections.abc import Iterator, Mapping, Sequence

import jinja2

from parl_tf.report.figures.paper import Drawing, not_drawn
from parl_tf.report.page.provenance import Provenance
from parl_tf.report.records.collection import Collection, Origin
from parl_tf.report.records.labels import NOT_RUN
from parl_tf.report.tables import masking
from parl_tf.report.tables.cells import Table
from parl_tf.report.tables.masking import Diagnosis
from parl_tf.report.tables.published import CITATION

GENERATOR = '<meta name="generator" content="parl-report">'
"""Part of every page, by which an earlier report is recognised."""


def render_page(
    collection: Collection,
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
    images: Mapping[str, bytes],
    diagnoses: Sequence[Diagnosis],
) -> str:
    """Renders the page.

    Args:
        collection: The records that the report is made from.
        tables: Tables, in their order on the page.
        drawings: Figures, in their order on the page.
        images: The figures as SVG, by name.
        diagnoses: Checks for masked gradients.

    Returns:
        HTML. All texts of records are escaped.
    """
    return _template().render(
        collection=collection,
        tables=tables,
        drawings=drawings,
        images={name: base64.b64encode(image).decode() for name, image in images.items()},
        not_drawn=not_drawn(drawings),
        diagnoses=diagnoses,
        diagnostics={
            "title": masking.TITLE,
            "caption": masking.CAPTION,
            "header": masking.HEADER,
            "failed": masking.OUTCOMES[False],
        },
        provenance=Provenance(collection.sources, _numbers(tables, drawings, diagnoses)),
        citation=CITATION,
        not_run=NOT_RUN,
    )


@functools.cache
def _template() -> jinja2.Template:
    """The template of the page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("parl_tf.report.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["thousands"] = "{:,}".format
    return environment.get_template("index.html")


def _numbers(
    tables: Sequence[Table], drawings: Sequence[Drawing], diagnoses: Sequence[Diagnosis]
) -> Iterator[Sequence[Origin]]:
    """The results behind each number of the page, in the order of the page."""
    for table in tables:
        for block in table.blocks:
            yield from (cell.origins for row in block.rows for cell in row.cells if cell.origins)
    yield from (drawing.origins for drawing in drawings)
    yield from (diagnosis.origins for diagnosis in diagnoses)
