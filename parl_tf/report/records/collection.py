"""Result records of files and folders, each with where it is from."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from parl_tf.arguments import listed
from parl_tf.errors import InputError, MissingFileError, UnreadableFileError
from parl_tf.report.records.labels import dataset_name, ordered_settings, plain, seed_of
from parl_tf.results.diversity import DiversityRecord, load_diversity
from parl_tf.results.files import load_records, read_document
from parl_tf.results.records import Record
from parl_tf.results.settings import Setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A results file.

    Attributes:
        file: Its name, relative to the folder that all files of the report have in common.
        checksum: SHA-256 over its content, as it says itself.
        finished: Whether its evaluation ran to the end.
    """

    file: str
    checksum: str
    finished: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A record with what a report needs to know of it.

    Attributes:
        record: The record.
        source: The first file that holds it.
        dataset: Name of the data set of its images.
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
        """Whether all restarts that were asked for were run."""
        restarts = self.record.hyperparameters.get("restarts", 1)
        return not isinstance(restarts, int) or len(self.record.correct) >= restarts


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """A record of diversity; the attributes are those of `Result`."""

    record: DiversityRecord
    source: Source
    dataset: str
    setting: Setting
    seed: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collection:
    """All that a report is made from.

    Attributes:
        results: Results of attacks and on clean images, each once.
        measurements: Measures of diversity, each once.
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
        """Files whose evaluations stopped before their end."""
        return [source.file for source in self.sources if not source.finished]


def collect(paths: Sequence[str | os.PathLike] | str | os.PathLike) -> Collection:
    """Reads results files, and those in folders.

    Args:
        paths: Files, and folders with such files somewhere below, several or one; other JSON files
            in folders are left alone.

    Returns:
        Their records, not yet compared with each other.

    Raises:
        MissingFileError: No such file or folder.
        UnreadableFileError: Truncated, edited by hand, of another format, or something else.
        InputError: Not a single record.
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
            file=plain_path(file.relative_to(common).as_posix()),
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


def plain_path(path: str) -> str:
    """A path on one line."""
    return "/".join(plain(part) for part in path.split("/"))


def _described(record, source) -> dict[str, Any]:
    """The fields of a result."""
    return {
        "record": record,
        "source": source,
        "dataset": dataset_name(record.data),
        "setting": Setting.of(record.target),
        "seed": seed_of(record.target),
    }


def _files(paths) -> list[pathlib.Path]:
    """The results files that are meant, each once."""
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


def _is_of_this_package(path) -> bool:
    """Whether a JSON file of a folder holds results."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError(f"{path} is not JSON, or only part of it: {error}") from error
    return isinstance(document, dict) and bool({"records", "diversity"} & set(document))
