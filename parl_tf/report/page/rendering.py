"""The report as one HTML page that needs nothing else."""

import base64
import html
from collections.abc import Mapping, Sequence

from parl_tf.report.figures.paper import Drawing, not_drawn
from parl_tf.report.page.provenance import PAPER, Provenance
from parl_tf.report.records.collection import Collection
from parl_tf.report.records.labels import NOT_RUN
from parl_tf.report.tables.cells import Block, Cell, Table
from parl_tf.report.tables.masking import CAPTION, HEADER, TITLE, Diagnosis, rows_of
from parl_tf.report.tables.published import CITATION

GENERATOR = '<meta name="generator" content="parl-report">'
_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 80rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #888; padding-bottom: .2rem; }
p { max-width: 50rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th[scope=row], th:first-child, .list td, .list th, .checks td, .checks th { text-align: left; }
thead th { border-bottom: 2px solid; vertical-align: bottom; white-space: normal; }
tbody tr { border-bottom: 1px solid #8886; }
tr.paper { font-style: italic; }
.list { font-size: .8rem; }
.checks td { white-space: normal; }
.fail { font-weight: bold; text-decoration: underline; }
.none { opacity: .75; }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; }
figcaption { max-width: 50rem; }
a { color: inherit; text-decoration: underline dotted; text-underline-offset: .2em; }
nav a { margin-right: 1rem; }
:target { outline: 2px solid; }
@media print {
  body { max-width: none; padding: 0; font-size: 9pt; }
  .wide { overflow: visible; }
  th, td { padding: .1rem .3rem; }
  figure, tr { break-inside: avoid; }
  nav { display: none; }
}
"""


def render_page(
    collection: Collection,
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
    images: Mapping[str, bytes],
    diagnosed: Sequence[Diagnosis],
) -> str:
    """The page.

    Args:
        collection: What everything follows from.
        tables: Tables, in their order on the page.
        drawings: Figures.
        images: The figures as SVG, by name.
        diagnosed: Checks for masked gradients.
    """
    provenance = Provenance(collection.sources)
    sections = [(table.name, table.title, _table(table, provenance)) for table in tables]
    figures = "\n".join(_figure(drawing, images[drawing.name], provenance) for drawing in drawings)
    missing = "".join(f"<p>{html.escape(title)}: {NOT_RUN}.</p>\n" for title in not_drawn(drawings))
    sections.append(("figures", "Figures", figures + "\n" + missing))
    sections.append(("diagnostics", TITLE, _diagnoses(diagnosed, provenance)))
    sections.append(("provenance", "Where numbers come from", provenance.to_html(CITATION)))
    links = "".join(
        f'<a href="#{name}">{html.escape(title.split(":")[0])}</a>' for name, title, _ in sections
    )
    body = [
        f'<section id="{name}"><h2>{html.escape(title)}</h2>\n{content}</section>'
        for name, title, content in sections
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            GENERATOR,
            f"<title>Robustness report</title><style>{_STYLE}</style></head><body>",
            "<header><h1>Robustness report</h1>",
            *_introduction(collection),
            f"<nav>{links}</nav></header>",
            "<main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def _introduction(collection: Collection) -> list[str]:
    """What the report is made from."""
    made = f"From {len(collection.results):,} results of attacks and on clean images"
    if collection.measurements:
        made += f", and {len(collection.measurements):,} measures of diversity"
    lines = [
        f"<p>{made}, in {len(collection.sources):,} files. Every accuracy links to what it was "
        f"made from; a cell that says {NOT_RUN} has no complete result.</p>"
    ]
    if collection.unfinished:
        names = html.escape(", ".join(collection.unfinished))
        lines.append(f"<p><strong>Unfinished evaluations:</strong> {names}.</p>")
    return lines


def _table(table: Table, provenance: Provenance) -> str:
    """A table with its caption."""
    parts = [f"<p>{html.escape(table.caption)}</p>"]
    parts += [_block(block, provenance) for block in table.blocks]
    return "\n".join(parts if table.blocks else [*parts, f"<p>{NOT_RUN}</p>"])


def _block(block: Block, provenance: Provenance) -> str:
    """A part of a table."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in block.header)
    lines = [
        f"<h3>{html.escape(block.title)}</h3>",
        f"<p>{html.escape(' '.join(block.notes))}</p>",
        f'<div class="wide" role="region" tabindex="0" aria-label="{html.escape(block.title)}">',
        "<table>",
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
    ]
    for row in block.rows:
        paper = all(cell.published for cell in row.cells)
        cells = "".join(_cell(cell, provenance) for cell in row.cells)
        label = f'<th scope="row">{html.escape(row.label)}</th>'
        row_class = ' class="paper"' if paper else ""
        lines.append(f"<tr{row_class}>{label}{cells}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _cell(cell: Cell, provenance: Provenance) -> str:
    """A cell, with a link to what its number follows from."""
    text = html.escape(cell.text)
    if cell.mean is None:
        return f'<td class="none">{text}</td>'
    if cell.published:
        return f'<td><a href="#{PAPER}">{text}</a></td>'
    if not cell.origins:
        return f"<td>{text}</td>"
    return f'<td><a href="#{provenance.entry(cell.origins)}">{text}</a></td>'


def _figure(drawing: Drawing, image: bytes, provenance: Provenance) -> str:
    """A figure with its caption."""
    content = base64.b64encode(image).decode()
    entry = provenance.entry(drawing.origins)
    return (
        f'<figure id="{drawing.name}">'
        f'<img src="data:image/svg+xml;base64,{content}" alt="{html.escape(drawing.alternative)}">'
        f"<figcaption><strong>{html.escape(drawing.title)}.</strong> "
        f'{html.escape(drawing.caption)} <a href="#{entry}">Records</a></figcaption></figure>'
    )


def _diagnoses(diagnosed: Sequence[Diagnosis], provenance: Provenance) -> str:
    """The checks of all targets."""
    parts = [f"<p>{html.escape(CAPTION)}</p>"]
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in HEADER)
    for diagnosis in diagnosed:
        entry = provenance.entry(diagnosis.origins)
        parts += [
            f'<h3>{html.escape(diagnosis.title)} (<a href="#{entry}">records</a>)</h3>',
            '<div class="wide" role="region" tabindex="0" '
            f'aria-label="{html.escape(diagnosis.title)}">',
            f'<table class="checks"><thead><tr>{head}</tr></thead><tbody>',
        ]
        for expected, outcome, numbers in rows_of(diagnosis):
            shown = f'<span class="fail">{outcome}</span>' if outcome == "FAIL" else outcome
            parts.append(
                f'<tr><th scope="row">{html.escape(expected)}</th><td>{shown}</td>'
                f"<td>{html.escape(numbers)}</td></tr>"
            )
        parts.append("</tbody></table></div>")
    return "\n".join(parts if diagnosed else [*parts, f"<p>{NOT_RUN}</p>"])
