"""parl-report: makes tables, figures and a page from result records."""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from parl_tf.cli.common import finite, run
from parl_tf.cli.output import Parser

if TYPE_CHECKING:
    from parl_tf.report.tables.cells import Table


def parser() -> argparse.ArgumentParser:
    """The arguments of parl-report."""
    tool = Parser(
        prog="parl-report",
        description="Makes the paper's tables and figures, checks for masked gradients and one "
        "HTML page from the records of parl-attack and parl-diversity. Training seeds of one "
        "setting are summarised by mean and standard deviation; records that are not comparable "
        "are refused.",
    )
    tool.add_argument(
        "results",
        nargs="+",
        metavar="RESULTS",
        help="results files, and folders to search for them",
    )
    tool.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="folder to write into; an earlier report there is replaced",
    )
    tool.add_argument(
        "--epsilon",
        type=finite,
        metavar="E",
        help="radius of the attacks in Table 1; default: 0.07 if it was run, else the largest up "
        "to 0.1",
    )
    tool.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document to standard output, everything else to standard error",
    )
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs parl-report; returns its exit status."""
    arguments = parser().parse_args(argv)
    return run(lambda: _report(arguments), print_json=arguments.json)


def _report(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes the report, prints Table 1, and returns the tables."""
    from parl_tf.cli.display import print_table
    from parl_tf.report.page.writing import PAGE, write_report
    from parl_tf.report.tables.formats import text_rows

    report = write_report(arguments.results, arguments.out, epsilon=arguments.epsilon)
    for block in report.tables[0].blocks:
        if any(cell.origins for row in block.rows for cell in row.cells):
            print_table(f"Table 1, {block.title}", block.header, text_rows(block))
            print(" ".join(block.notes))
    for title in report.not_run:
        print(f"{title}: not run")
    if report.unfinished:
        print(f"Unfinished evaluations: {', '.join(report.unfinished)}")
    print(f"Report: {pathlib.Path(arguments.out) / PAGE}")
    return {
        "out": str(arguments.out),
        "files": report.files,
        "not_run": report.not_run,
        "unfinished": report.unfinished,
        "tables": {table.name: _as_json(table) for table in report.tables},
    }


def _as_json(table: "Table") -> list[dict[str, Any]]:
    """The cells of a table for programs."""
    return [
        {
            "part": block.title,
            "row": row.label,
            "column": column,
            "text": cell.text,
            "mean": cell.mean,
            "deviation": cell.deviation,
            "seeds": cell.seeds,
            "published": cell.published,
        }
        for block in table.blocks
        for row in block.rows
        for column, cell in zip(block.header[1:], row.cells, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
