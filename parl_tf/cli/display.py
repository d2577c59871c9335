"""Tables and progress for people, on the terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from parl_tf.evaluation.diagnostics import masking_checks
from parl_tf.report.tables.masking import OUTCOMES
from parl_tf.results.records import Record

_ANY_WIDTH = 10_000


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table of text cells, with a line between targets."""
    table = Table(title=escape(title))
    for index, name in enumerate(header):
        table.add_column(escape(name), justify="left" if index == 0 else "right", no_wrap=index > 0)
    for index, row in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1][0] != row[0]
        table.add_row(*map(escape, row), end_section=last)
    # Never truncated to a guessed width: terminals wrap long lines.
    needed = Console(width=_ANY_WIDTH).measure(table).maximum
    _Console(file=sys.stdout, width=needed).print(table)


def threats(records: Sequence[Record]) -> str:
    """The threat models of records, for a title: ", white box," or nothing."""
    kinds = dict.fromkeys(record.threat_model for record in records)
    named = [kind.replace("_", " ") for kind in kinds if kind != "clean"]
    return f", {' and '.join(named)}," if named else ""


def print_checks(records: Sequence[Record]) -> None:
    """Prints the checks for masked gradients."""
    rows = [[c.target, c.check, OUTCOMES[c.passed], c.detail] for c in masking_checks(records)]
    print_table("Does it only mask gradients?", ["target", "expected", "outcome", "in %"], rows)


@contextlib.contextmanager
def evaluation_progress() -> Iterator[Callable[[str, float], None]]:
    """Shows the progress of an evaluation: a bar on a terminal, elsewhere a line per step."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _LineProgress()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("clean images", total=1.0)
        yield lambda description, done: bar.update(task, description=description, completed=done)


class _Console(Console):
    """A console that leaves the handling of a broken pipe to its caller."""

    def on_broken_pipe(self) -> None:
        """Raises the current error, where rich would exit silently."""
        raise


class _LineProgress:
    """Prints a line whenever the description changes."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, description: str, done: float) -> None:
        if description != self._last:
            print(f"[{100 * done:3.0f} %] {description}", file=sys.stderr, flush=True)
            self._last = description
