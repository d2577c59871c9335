"""Files of result records: written atomically, checksummed, and extended by later evaluations."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from parl_tf.errors import ExistingRunError, InputError, MissingFileError, UnreadableFileError
from parl_tf.files import write_json
from parl_tf.provenance import are_same_versions
from parl_tf.results.keys import RecordKey
from parl_tf.results.records import FORMAT, Record, from_json, to_json
from parl_tf.runtime.onednn import ONEDNN, how_to_use_onednn


def check_can_write(path: str | os.PathLike) -> None:
    """Raises ExistingRunError unless a file can be created or replaced at `path`."""
    path = pathlib.Path(path)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ExistingRunError(f"{path} cannot be written: {folder} is not a writable folder.")


def to_document(records: Sequence[Record], plan: Mapping[str, Any], finished: bool) -> dict:
    """Records as a JSON document, with a checksum over all of it."""
    document = {
        "format": FORMAT,
        "finished": finished,
        "plan": dict(plan),
        "records": [to_json(record) for record in records],
    }
    return {**document, "checksum": checksum(document)}


def checksum(document: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON document without its own checksum, in hexadecimal."""
    body = {key: value for key, value in document.items() if key != "checksum"}
    text = json.dumps(body, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_document(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a JSON document of this package and verifies its checksum.

    Raises:
        MissingFileError: There is no such file.
        UnreadableFileError: The file is truncated, edited by hand, of another format, or
            something else.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise MissingFileError(f"No result records at {path}.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError(f"{path} is not JSON, or is truncated: {error}") from error
    if not isinstance(document, dict) or "format" not in document:
        raise UnreadableFileError(f"{path} does not hold result records.")
    found = document["format"]
    if found != FORMAT:
        is_newer = type(found) is int and found > FORMAT
        advice = (
            "A newer version wrote it: update parl_tf."
            if is_newer
            else "Evaluate again, or read it with the version that wrote it."
        )
        raise UnreadableFileError(
            f"{path} has format {found!r}; this version of parl_tf reads format {FORMAT}. {advice}"
        )
    try:
        unchanged = checksum(document) == document.get("checksum")
    except (ValueError, RecursionError):
        unchanged = False
    if not unchanged:
        raise UnreadableFileError(
            f"{path} was changed after it was written: its checksum differs. Evaluate again; "
            "results must not be edited by hand."
        )
    return document


def load_records(path: str | os.PathLike) -> list[Record]:
    """Reads the records of a results file, finished or not.

    Raises:
        MissingFileError: There is no such file.
        UnreadableFileError: The file is truncated, edited by hand, of another format, or
            something else.

    Example:
        >>> records = parl_tf.evaluate_robustness(
        ...     ensemble, parl_tf.FGSM(), 0.1, sample, out="results.json"
        ... )
        >>> parl_tf.load_records("results.json") == records
        True
    """
    return _records_of(read_document(path), path)


def _records_of(document: Mapping[str, Any], path: str | os.PathLike) -> list[Record]:
    """The records of a document."""
    try:
        records = [from_json(value) for value in document["records"]]
    except (InputError, KeyError, TypeError) as error:
        raise UnreadableFileError(f"{path} does not hold result records: {error}") from error
    if len({record.key for record in records}) < len(records):
        raise UnreadableFileError(f"{path} holds two records of the same result.")
    return records


class ResultStore:
    """Records of one evaluation, saved to a file as they are added.

    An existing file must have the same plan, or one with fewer targets or versions. The evaluation
    then continues where it stopped, with the versions of that plan.

    Args:
        path: The file; None to keep records in memory only.
        plan: Description of the evaluation as JSON values; its `targets` are an object.

    Raises:
        InputError: The plan has values that JSON cannot represent.
        ExistingRunError: The file holds another evaluation, or cannot be written.
        UnreadableFileError: The file holds something else.
    """

    def __init__(self, path: str | os.PathLike | None, plan: Mapping[str, Any]) -> None:
        self._path = None if path is None else pathlib.Path(path)
        try:
            self._plan = json.loads(json.dumps(plan, allow_nan=False))  # as it will be read back
        except (TypeError, ValueError) as error:
            raise InputError(
                f"Expected JSON values to describe the evaluation. Received: {error}."
            ) from error
        self._records: dict[RecordKey, Record] = {}
        self.finished = False
        if self._path is None:
            return
        check_can_write(self._path)
        if self._path.exists():
            document = read_document(self._path)
            self._compare(document.get("plan"))
            self._records = {r.key: r for r in _records_of(document, self._path)}
            self.finished = bool(document.get("finished")) and document["plan"] == self._plan

    @property
    def records(self) -> list[Record]:
        """The records so far, in the order in which they were added."""
        return list(self._records.values())

    def get(self, key: RecordKey) -> Record | None:
        """The record with a key; None if there is none yet."""
        return self._records.get(key)

    def put(self, records: Iterable[Record]) -> None:
        """Adds records, or replaces those with the same keys, and writes the file."""
        self._records.update((record.key, record) for record in records)
        self._write()

    def finish(self) -> None:
        """Marks the evaluation as complete."""
        self.finished = True
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, self.document(), indent=None)

    def document(self) -> dict[str, Any]:
        """The content of the file."""
        return to_document(self.records, self._plan, self.finished)

    def _compare(self, found: Any) -> None:
        """Raises unless the file's plan is the same, or has fewer targets or versions.

        Versions that an older file lacks are taken out of the plan.
        """
        found = dict(found) if isinstance(found, dict) else {}
        names = sorted(set(self._plan) | set(found))
        for name in names:
            there, here = found.get(name), self._plan.get(name)
            added = name == "targets" and isinstance(there, dict) and there.items() <= here.items()
            if name == "versions" and there and are_same_versions(there, here or {}):
                self._plan[name] = there
            elif there != here and not added:
                raise ExistingRunError(
                    f"{self._path} holds another evaluation: its {name} is {there!r}, here it is "
                    f"{here!r}. Expected a new file; nothing was changed.{_way_out(there, here)}"
                )


def _way_out(there: Any, here: Any) -> str:
    """How to continue a file whose versions differ in oneDNN alone."""
    if not isinstance(there, dict) or not isinstance(here, dict):
        return ""
    state = there.get(ONEDNN)
    if state not in ("on", "off") or {**here, ONEDNN: state} != there:
        return ""
    return f" To continue it, {how_to_use_onednn(state)}."
