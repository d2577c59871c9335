"""Results of evaluations, as records from which every table and figure follows."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from parl_tf.errors import ExistingRunError, MissingFileError, UnreadableFileError
from parl_tf.runs import write_json

THREAT_MODELS = ("clean", "black_box", "white_box")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """How one target did on one set of images: clean, or attacked in one way.

    Attributes:
        target: Name of the evaluated model.
        threat_model: "clean"; "black_box", crafted on the surrogate; or "white_box", crafted on
            the target itself.
        surrogate: Name of the model that the examples were crafted on, if another one.
        attack: Name of the attack; "clean" for none.
        hyperparameters: Those of the attack.
        epsilon: Radius of the ball in pixel units of [0, 1]; 0 for clean images.
        correct: For each restart a 0 or 1 for each image: whether the majority vote was right.
        mean_probability_accuracy: Part of the images that the mean probability gets right, over
            all restarts.
        tie_rate: Part of the votes that were tied, over all restarts.
        seed: Seed of the random starts.
        batch_size: Images attacked at a time.
        seconds: Wall time of crafting and judging; crafting is shared by the targets of a
            surrogate.
        data: What the images are: name, fingerprint, number, how they were drawn.
        versions: Versions of the packages.
    """

    target: str
    threat_model: str
    surrogate: str | None
    attack: str
    hyperparameters: dict[str, Any]
    epsilon: float
    correct: list[list[int]]
    mean_probability_accuracy: float
    tie_rate: float
    seed: int
    batch_size: int
    seconds: float
    data: dict[str, Any]
    versions: dict[str, str]

    @property
    def num_examples(self) -> int:
        """Number of images."""
        return len(self.correct[0])

    @property
    def accuracy(self) -> float:
        """Part of the images that the vote gets right, the mean over restarts."""
        return float(np.mean(self.correct))

    @property
    def worst_case_accuracy(self) -> float:
        """Part of the images that the vote gets right after every restart."""
        return float(np.all(self.correct, axis=0).mean())


def save_records(records: Sequence[Record], path: str | os.PathLike) -> dict[str, Any]:
    """Writes records to a new JSON file, whole or not at all, and returns the document.

    Raises:
        ExistingRunError: There is something at `path`, or it cannot be written there.
    """
    check_can_save(path)
    document = to_document(records)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, document, indent=None)
    return document


def check_can_save(path: str | os.PathLike) -> None:
    """Raises unless records can be saved at `path`; errors are those of `save_records`."""
    path = pathlib.Path(path)
    if path.exists():
        raise ExistingRunError(f"{path} already exists. Expected a new file.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ExistingRunError(f"{path} cannot be written: {folder} is not a writable folder.")


def to_document(records: Sequence[Record]) -> dict[str, Any]:
    """Records as a JSON document; each comes with its accuracies, for readers without us."""
    return {
        "format": 1,
        "records": [
            {
                **dataclasses.asdict(record),
                "accuracy": record.accuracy,
                "worst_case_accuracy": record.worst_case_accuracy,
            }
            for record in records
        ],
    }


def load_records(path: str | os.PathLike) -> list[Record]:
    """Reads what `save_records` wrote.

    Raises:
        MissingFileError: No such file.
        UnreadableFileError: Not a file of records.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise MissingFileError(f"No result records at {path}.")
    names = [field.name for field in dataclasses.fields(Record)]
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        records = [Record(**{name: item[name] for name in names}) for item in document["records"]]
        for record in records:
            _check(record)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UnreadableFileError(f"{path} does not hold result records: {error!r}") from error
    return records


def _check(record: Record) -> None:
    """Raises ValueError unless the parts of a record that are computed with make sense."""
    masks = np.asarray(record.correct)
    if masks.ndim != 2 or masks.size == 0 or not np.isin(masks, (0, 1)).all():
        raise ValueError("correct is not a mask of 0 and 1 for each restart")
    if record.threat_model not in THREAT_MODELS or not 0 <= float(record.epsilon) <= 1:
        raise ValueError(f"threat model {record.threat_model!r}, epsilon {record.epsilon!r}")
