"""Tables as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Iterable, Sequence

from parl_tf.report.tables.cells import Block, Cell, Table

_LATEX: dict[str, str | int | None] = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "…": r"\ldots{}",
}
_MARKDOWN: dict[str, str | int | None] = {
    "\\": "\\\\",
    "|": "\\|",
    "<": "&lt;",
    "[": "\\[",
    "`": "\\`",
    "*": "\\*",
    "\n": " ",
}


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text cells in Markdown; all columns but the first are aligned right.

    Example:
        >>> print(parl_tf.markdown_table(["target", "clean"], [["mine", "98.0"]]), end="")
        | target | clean |
        | --- | ---: |
        | mine | 98.0 |
    """
    lines = [_markdown_row(header), ["---", *["---:"] * (len(header) - 1)]]
    lines += map(_markdown_row, rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def markdown(text: str) -> str:
    """Text escaped for Markdown."""
    return text.translate(str.maketrans(_MARKDOWN))


def latex(text: str) -> str:
    """Text escaped for LaTeX."""
    return text.translate(str.maketrans(_LATEX))


def to_markdown(table: Table) -> str:
    """A table with its title, caption and notes in Markdown."""
    parts = [f"# {markdown(table.title)}\n", f"{markdown(table.caption)}\n"]
    for block in table.blocks or ():
        parts += [f"## {markdown(block.title)}\n"]
        parts += [f"{markdown(' '.join(block.notes))}\n"] if block.notes else []
        parts += [markdown_table(block.header, text_rows(block))]
    if not table.blocks:
        parts.append("not run\n")
    return "\n".join(parts)


def to_csv(table: Table) -> str:
    """A table as CSV, a line for each cell, with unrounded numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["part", "row", "column", "mean", "deviation", "seeds", "note"])
    for block in table.blocks:
        for row in block.rows:
            for column, cell in zip(block.header[1:], row.cells, strict=True):
                names = [_no_formula(name) for name in (block.title, row.label, column)]
                writer.writerow([*names, *_csv_values(cell)])
    return text.getvalue()


def to_latex(table: Table) -> str:
    """A table in LaTeX with booktabs, a tabular for each block."""
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{latex(table.title)}. {latex(table.caption)}}}",
    ]
    for block in table.blocks:
        lines += [
            "",
            f"\\smallskip\\textbf{{{latex(block.title)}}}. {latex(' '.join(block.notes))}",
            "",
            f"\\begin{{tabular}}{{l{'r' * (len(block.header) - 1)}}}",
            "\\toprule",
            _latex_row(block.header),
            "\\midrule",
            *map(_latex_row, text_rows(block)),
            "\\bottomrule",
            "\\end{tabular}",
        ]
    if not table.blocks:
        lines.append("not run")
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def text_rows(block: Block) -> list[list[str]]:
    """Rows of text cells, labels first."""
    return [[row.label, *(cell.text for cell in row.cells)] for row in block.rows]


def _markdown_row(cells: Iterable[str]) -> list[str]:
    """The escaped cells of a row."""
    return [markdown(cell) for cell in cells]


def _latex_row(cells: Iterable[str]) -> str:
    """A line of a tabular."""
    return " & ".join(map(latex, cells)) + r" \\"


def _csv_values(cell: Cell) -> list[str | int]:
    """Mean, deviation, number of seeds and note of a cell."""
    numbers = ["" if n is None else f"{n:.10g}" for n in (cell.mean, cell.deviation)]
    return [*numbers, cell.seeds or "", _no_formula(cell.note)]


def _no_formula(text: str) -> str:
    """Text escaped so that a spreadsheet does not read it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
