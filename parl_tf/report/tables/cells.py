"""Tables of cells, each with the results that it was computed from."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from parl_tf.report.records.collection import Origin, Result
from parl_tf.report.records.labels import NOT_GIVEN, NOT_RUN
from parl_tf.report.records.selection import Case, Group, case_of
from parl_tf.results.settings import Setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A number in a table, or the text in its place.

    Attributes:
        mean: Mean over seeds; None if there is no number.
        deviation: Sample standard deviation over seeds; None for fewer than two seeds.
        seeds: Number of seeds; 0 if there is no number, and for the paper's numbers.
        note: Text in place of the number, or in brackets after it.
        digits: Digits after the decimal point; None for as many as were given.
        published: Whether the number is quoted from the paper.
        origins: Results that the number was computed from.
    """

    mean: float | None = None
    deviation: float | None = None
    seeds: int = 0
    note: str = ""
    digits: int | None = 1
    published: bool = False
    origins: tuple[Origin, ...] = ()

    @property
    def text(self) -> str:
        """The cell as it is printed."""
        if self.mean is None:
            return self.note
        parts = [
            _number(value, self.digits)
            for value in (self.mean, self.deviation)
            if value is not None
        ]
        number = " ± ".join(parts)
        return f"{number} ({self.note})" if self.note else number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: its label and a cell for each column."""

    label: str
    cells: tuple[Cell, ...]

    @property
    def published(self) -> bool:
        """Whether all numbers are the paper's."""
        return all(cell.published for cell in self.cells)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a table with columns of its own.

    Attributes:
        title: Its title.
        notes: Sentences on how its numbers were obtained.
        header: Names of the columns; the first column holds the rows' labels.
        rows: Its rows.
    """

    title: str
    notes: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table: the name of its files, its title, its caption and its blocks."""

    name: str
    title: str
    caption: str
    blocks: tuple[Block, ...]


def published(value: float | None) -> Cell:
    """A cell with a number quoted from the paper; None for one that the paper does not give."""
    if value is None:
        return Cell(note=NOT_GIVEN, published=True)
    return Cell(mean=value, digits=None, published=True)


def count(number: int) -> Cell:
    """A cell with a number of seeds."""
    return Cell(mean=number, digits=0) if number else Cell(note=NOT_RUN)


def over_seeds(
    origins: Iterable[Origin],
    value: Callable[[list], float | None],
    *,
    seeds: int | None = None,
    digits: int = 1,
) -> Cell:
    """A cell with the mean and standard deviation over seeds.

    Args:
        origins: Results of one setting.
        value: Computes the number of one seed from its results; None if they do not suffice.
        seeds: Number of seeds of the row; a cell of fewer seeds says so.
        digits: Digits after the decimal point.
    """
    by_seed: dict[int | None, list[Origin]] = {}
    for origin in origins:
        by_seed.setdefault(origin.seed, []).append(origin)
    values, used, missing = [], [], ""
    for same in by_seed.values():
        number = value(same)
        if number is None:
            missing = f"{NOT_RUN} in full"
            continue
        values.append(number)
        used += same
    if not values:
        return Cell(note=missing or NOT_RUN)
    few = seeds is not None and len(values) < seeds
    return Cell(
        mean=float(np.mean(values)),
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        seeds=len(values),
        note=f"of {len(values)} seed{'s' if len(values) > 1 else ''}" if few else "",
        digits=digits,
        origins=tuple(used),
    )


def mean_accuracy(results: Sequence[Result]) -> float | None:
    """Accuracy of the first result in per cent, the mean over restarts."""
    return 100 * results[0].record.accuracy if results else None


def worst_accuracy(cases: Sequence[Case]) -> Callable[[list[Result]], float | None]:
    """Computes how many images, in per cent, survive all cases; None if a case is missing."""

    def value(results: list[Result]) -> float | None:
        if not cases or not set(cases) <= set(map(case_of, results)):
            return None
        masks = [result.record.survived for result in results if case_of(result) in cases]
        return 100 * float(np.all(masks, axis=0).mean())

    return value


def worst_cell(group: Group, results: Sequence[Result], setting: Setting, seeds: int) -> Cell:
    """A cell with the images of a setting that survive all cases of some results of a group."""
    own = [result for result in results if result.setting == setting]
    return over_seeds(own, worst_accuracy(group.cases(results)), seeds=seeds)


def num_seeds(origins: Iterable[Origin], setting: Setting) -> int:
    """Number of seeds that a setting has results for."""
    return len({origin.seed for origin in origins if origin.setting == setting})


def _number(value: float, digits: int | None) -> str:
    """A number as it is printed."""
    return f"{value:g}" if digits is None else f"{value:.{digits}f}"
