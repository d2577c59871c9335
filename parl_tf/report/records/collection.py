"""Result records from files and folders, each with its source."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from parl_tf.arguments import listed
from parl_tf.errors import InputError, MissingFileError, UnreadableFileError
from parl_tf.report.records.labels import dataset_name, ordered_settings, sanitized, seed_of
from parl_tf.results.diversity import DiversityRecord, load_diversity
from parl_tf.results.files import load_records, read_document
from parl_tf.results.records import Record
from parl_tf.results.settings import Setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A results file.

    Attributes:
        file: Its path, relative to the innermost folder that holds all files of the report.
        checksum: SHA-256 of its content, as recorded in the file.
        finished: Whether its evaluation ran to the end.
    """

    file: str
    checksum: str
    finished: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A record and what a report needs to know about it.

    Attributes:
        record: The record.
        source: The first file that holds it.
        dataset: Name of the data set that its images are from.
        setting: The way in which the target was trained.
        seed: Seed that the target was trained from, where known.
    """

    record: Record
    source: Source
    dataset: str
    setting: Setting
    seed: int | None

    @property
    def is_whole(self) -> bool:
        """Whether all requested restarts were run."""
        restarts = self.record.hyperparameters.get("restarts", 1)
        return not isinstance(restarts, int) or len(self.record.correct) >= restarts


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """A record of diversity; the attributes mean the same as in `Result`."""

    record: DiversityRecord
    source: Source
    dataset: str
    setting: Setting
    seed: int | None


Origin = Result | Measurement
"""What a number of a report is computed from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collection:
    """Everything that a report is made from.

    Attributes:
        results: Results on clean and attacked images.
        measurements: Measurements of diversity.
        sources: All files.
    """

    results: list[Result]
    measurements: list[Measurement]
    sources: list[Source]

    @property
    def settings(self) -> list[Setting]:
        """All settings, in the order of the tables."""
        found = [item.setting for item in self.results]
        return ordered_settings(found + [item.setting for item in self.measurements])

    @property
    def unfinished(self) -> list[str]:
        """Files whose evaluations did not run to the end."""
        return [source.file for source in self.sources if not source.finished]


def collect(paths: Sequence[str | os.PathLike] | str | os.PathLike) -> Collection:
    """Reads results files, given by name or by folder.

    Args:
        paths: A file or folder, or several. Folders are searched recursively; JSON files in them
            that hold no results are ignored.

    Returns:
        All records. Whether they are comparable is not checked yet.

    Raises:
        MissingFileError: A file or folder does not exist.
        UnreadableFileError: A file is truncated, was edited by hand, has another format or is no
            results file.
        InputError: There is no record in any file.
    """
    paths = listed(paths)
    files = _files(paths)
    common = os.path.commonpath([file.parent for file in files]) if files else ""
    results: list[Result] = []
    measurements: list[Measurement] = []
    sources = []
    for file in files:
        document = read_document(file)
        source = Source(
            file=one_line_path(file.relative_to(common).as_posix()),
            checksum=document["checksum"],
            finished="records" not in document or document.get("finished") is True,
        )
        sources.append(source)
        if "records" in document:
            results += [Result(**_described(record, source)) for record in load_records(file)]
        elif "diversity" in document:
            measurements.append(Measurement(**_described(load_diversity(file), source)))
        else:
            raise UnreadableFileError(f"{file} does not hold result records.")
    if not results and not measurements:
        given = ", ".join(str(path) for path in paths)
        raise InputError(f"Expected result records to report. Received: none in {given or '()'}.")
    return Collection(results=results, measurements=measurements, sources=sources)


def one_line_path(path: str) -> str:
    """A path on one line."""
    return "/".join(sanitized(part) for part in path.split("/"))


def _described(record: Record | DiversityRecord, source: Source) -> dict[str, Any]:
    """The fields of a `Result` or `Measurement`."""
    return {
        "record": record,
        "source": source,
        "dataset": dataset_name(record.data),
        "setting": Setting.of(record.target),
        "seed": seed_of(record.target),
    }


def _files(paths: Iterable[str | os.PathLike]) -> list[pathlib.Path]:
    """The results files among files and in folders, each once."""
    files = []
    for given in map(pathlib.Path, paths):
        if given.is_dir():
            found = (path for path in given.rglob("*.json") if path.is_file())
            below = sorted(path for path in found if not path.name.startswith("."))
            files += [path for path in below if _is_of_this_package(path)]
        elif given.is_file():
            files.append(given)
        else:
            raise MissingFileError(f"No results file or folder at {given}.")
    return list(dict.fromkeys(file.resolve() for file in files))


def _is_of_this_package(path: pathlib.Path) -> bool:
    """Whether a JSON file holds results."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError(f"{path} is not JSON, or is truncated: {error}") from error
    return isinstance(document, dict) and bool({"records", "diversity"} & set(document))
