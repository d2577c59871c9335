"""Writes a report of results files into a folder."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from parl_tf.errors import ExistingRunError
from parl_tf.report.figures.drawing import figure_bytes
from parl_tf.report.figures.paper import draw_all, not_drawn
from parl_tf.report.page.rendering import GENERATOR, render_page
from parl_tf.report.records.agreement import agreed
from parl_tf.report.records.collection import collect
from parl_tf.report.tables import TABLES
from parl_tf.report.tables.cells import Table
from parl_tf.report.tables.formats import to_csv, to_latex, to_markdown
from parl_tf.report.tables.masking import diagnoses
from parl_tf.report.tables.masking import to_markdown as checks_to_markdown

PAGE = "index.html"
_OWN = re.compile(
    rf"({'|'.join(TABLES)})\.(md|csv|tex)"
    r"|figure[1-6](-[a-z0-9-]+)?\.(png|svg)|diagnostics\.md|index\.html"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A report that was written.

    Attributes:
        tables: The tables.
        files: Names of the files.
        not_run: Titles of figures without records.
        unfinished: Results files whose evaluations did not run to the end.

    Example:
        >>> parl_tf.save_diversity(measured, "diversity.json")
        >>> parl_tf.write_report("diversity.json", "report").unfinished
        []
    """

    tables: list[Table]
    files: list[str]
    not_run: list[str]
    unfinished: list[str]


def write_report(
    results: Sequence[str | os.PathLike] | str | os.PathLike,
    out: str | os.PathLike,
    *,
    epsilon: float | None = None,
) -> Report:
    """Writes tables, figures and an HTML page made from result records.

    Args:
        results: A results file or a folder, or several. Folders are searched recursively.
        out: Folder to write into; an earlier report there is replaced.
        epsilon: Radius of the attacks in Table 1; None for 0.07 if it was run, else the largest
            up to 0.1.

    Returns:
        The tables and the names of the files written.

    Raises:
        InputError: There is no record, records are not comparable, or the epsilon was not run.
        MissingFileError: A file or folder does not exist.
        UnreadableFileError: A file is damaged or is no results file.
        ExistingRunError: `out` is a file, or holds files named like those of a report that are
            not part of one.

    Example:
        >>> records = parl_tf.evaluate_robustness(
        ...     {"mine": ensemble}, parl_tf.FGSM(), 0.1, sample, out="results.json"
        ... )
        >>> report = parl_tf.write_report("results.json", "report")
        >>> "index.html" in report.files
        True
    """
    folder = pathlib.Path(out)
    check_can_report(folder)
    collection = agreed(collect(results))
    tables = [TABLES[name](collection, epsilon=epsilon) for name in TABLES]
    diagnosed = diagnoses(collection)
    drawings = draw_all(collection)
    files: dict[str, bytes] = {}
    for drawing in drawings:
        for kind in ("png", "svg"):
            files[f"{drawing.name}.{kind}"] = figure_bytes(drawing.figure, kind)
    images = {drawing.name: files[f"{drawing.name}.svg"] for drawing in drawings}
    page = render_page(collection, tables, drawings, images, diagnosed)
    for table in tables:
        files[f"{table.name}.md"] = to_markdown(table).encode()
        files[f"{table.name}.csv"] = to_csv(table).encode()
        files[f"{table.name}.tex"] = to_latex(table).encode()
    files["diagnostics.md"] = checks_to_markdown(diagnosed).encode()
    _write(folder, {PAGE: page.encode(), **files})  # the page first: it marks the others as ours
    return Report(
        tables=tables,
        files=sorted([PAGE, *files]),
        not_run=not_drawn(drawings),
        unfinished=collection.unfinished,
    )


def check_can_report(folder: pathlib.Path) -> None:
    """Raises ExistingRunError unless a report can be written, or replaced, in a folder."""
    if folder.exists() and not folder.is_dir():
        raise ExistingRunError(f"Expected a folder for the report. Received: {folder}, a file.")
    own = _own_files(folder)
    page = folder / PAGE
    is_report = page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace")
    if own and not is_report:
        raise ExistingRunError(
            f"{folder} holds {own[0].name}, which is not part of an earlier report. Expected a new "
            "folder, or that of an earlier report. Nothing was changed."
        )


def _own_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Files in a folder that are named like those of a report."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _OWN.fullmatch(path.name))


def _write(folder: pathlib.Path, files: Mapping[str, bytes]) -> None:
    """Writes a report, and removes the remaining files of an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in _own_files(folder):
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
