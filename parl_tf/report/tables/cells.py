"""Tables as cells that know the records they follow from."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from parl_tf.report.records.collection import Measurement, Result
from parl_tf.report.records.labels import NOT_GIVEN, NOT_RUN
from parl_tf.report.records.selection import Case, Group, case_of
from parl_tf.results.settings import Setting

Origin = Result | Measurement


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A number of a table, or what stands where there is none.

    Attributes:
        mean: Mean over seeds; None for no number.
        deviation: Sample standard deviation over seeds; None for fewer than two.
        seeds: Number of seeds; 0 for no number, and for the paper's.
        note: What stands instead of a number, or behind it.
        digits: Digits behind the point; None for as many as were given.
        published: Whether it is the paper's.
        origins: Results that the number follows from.
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
        title: What it is of.
        notes: Sentences on how its numbers were made.
        header: The first is that of the rows' labels.
        rows: Its rows.
    """

    title: str
    notes: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table: the name of its files, its title, sentences on all of it, and its blocks."""

    name: str
    title: str
    caption: str
    blocks: tuple[Block, ...]


def published(value: float | None) -> Cell:
    """A cell with a number of the paper's."""
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
    """A cell with the mean and deviation over seeds.

    Args:
        origins: Results of one setting.
        value: Number that the results of one seed make; None if they do not suffice.
        seeds: Seeds of the whole row; a cell of fewer says so.
        digits: Digits behind the point.
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
    """Accuracy of one result in per cent, the mean over restarts."""
    return 100 * results[0].record.accuracy if results else None


def worst_accuracy(cases: Sequence[Case]) -> Callable[[list[Result]], float | None]:
    """Part of the images, in per cent, that survive all of some cases; None if one is missing."""

    def value(results: list[Result]) -> float | None:
        if not cases or not set(cases) <= set(map(case_of, results)):
            return None
        masks = [result.record.survived for result in results if case_of(result) in cases]
        return 100 * float(np.all(masks, axis=0).mean())

    return value


def worst_cell(group: Group, results: Sequence[Result], setting: Setting, seeds: int) -> Cell:
    """What of a setting survives all cases of some results of a group."""
    own = [result for result in results if result.setting == setting]
    return over_seeds(own, worst_accuracy(group.cases(results)), seeds=seeds)


def num_seeds(origins: Iterable[Origin], setting: Setting) -> int:
    """Number of seeds of a setting."""
    return len({origin.seed for origin in origins if origin.setting == setting})


def _number(value: float, digits: int | None) -> str:
    """A number as it is printed."""
    return f"{value:g}" if digits is None else f"{value:.{digits}f}"
