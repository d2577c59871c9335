"""Records of the diversity of an ensemble's members, for figures and tables."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from parl_tf.errors import UnreadableFileError
from parl_tf.files import write_json
from parl_tf.results.files import check_can_write, checksum, read_document
from parl_tf.results.keys import AttackKey, Hyperparameters
from parl_tf.results.records import FORMAT, ModelCard


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiversityRecord:
    """Diversity measures of one ensemble on test images. Arrays are nested lists.

    Attributes:
        target: The ensemble.
        data: Description of the images, as in a `Record`.
        tap: Which output of a convolution is a layer's representation.
        pairs: Index pairs (i, j) of members, in the order of every list of pairs.
        cka: (layers, pairs), linear CKA, biased, as in the paper; None where it is undefined.
        unbiased_cka: (layers, pairs), the unbiased estimate.
        gradient_cosines: (pairs,), mean cosine of the members' loss gradients.
        attack: The attack that `transfer` was measured with: name, hyperparameters and `epsilon`.
        transfer: (members, members), of the images that member j gets right, the fraction that it
            gets wrong when attacked through member i; None if it gets none right.
        agreement_clean: (members, members), fraction of images that i and j label alike.
        agreement_adversarial: The same on examples crafted on the ensemble.
        example: One image: `image` (height, width, channels), `label`, and `gradients`, each
            member's loss gradient of that shape, scaled to a largest absolute entry of 1.
        seed: Seed of the attack's random draws.
        seconds: Wall time.
        versions: Versions of the packages, and whether oneDNN's kernels were used.

    Example:
        >>> measured.target.name, np.shape(measured.transfer)
        ('mine', (2, 2))
    """

    target: ModelCard
    data: dict[str, Any]
    tap: str
    pairs: list[list[int]]
    cka: list[list[float | None]]
    unbiased_cka: list[list[float | None]]
    gradient_cosines: list[float]
    attack: dict[str, Any]
    transfer: list[list[float | None]]
    agreement_clean: list[list[float]]
    agreement_adversarial: list[list[float]]
    example: dict[str, Any]
    seed: int
    seconds: float
    versions: dict[str, str]

    @property
    def attack_key(self) -> AttackKey:
        """The key of the attack that `transfer` was measured with."""
        given = {k: v for k, v in self.attack.items() if k not in ("name", "epsilon")}
        return AttackKey.of(self.attack["name"], given)

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON value."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "target": self.target.to_json()}


def save_diversity(record: DiversityRecord, path: str | os.PathLike) -> None:
    """Writes a record to a JSON file atomically.

    Raises:
        ExistingRunError: The file cannot be written.

    Example:
        >>> parl_tf.save_diversity(measured, "diversity.json")
    """
    check_can_write(path)
    document = {"format": FORMAT, "diversity": record.to_json()}
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**document, "checksum": checksum(document)}, indent=None)


def load_diversity(path: str | os.PathLike) -> DiversityRecord:
    """Reads what `save_diversity` wrote.

    Raises:
        MissingFileError: There is no such file.
        UnreadableFileError: The file is truncated, edited by hand, of another format, or
            something else.

    Example:
        >>> parl_tf.save_diversity(measured, "diversity.json")
        >>> parl_tf.load_diversity("diversity.json") == measured
        True
    """
    document = read_document(path)
    try:
        given = {f.name: document["diversity"][f.name] for f in dataclasses.fields(DiversityRecord)}
        record = DiversityRecord(**{**given, "target": ModelCard.from_json(given["target"])})
        _check(record)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UnreadableFileError(f"{path} holds no diversity record: {error!r}") from error
    return record


def _check(record: DiversityRecord) -> None:
    """Raises ValueError unless the arrays of a record have consistent shapes."""
    members = len(record.transfer)
    pairs = np.asarray(record.pairs, int).reshape(-1, 2)
    layers = len(record.cka)
    shape = np.shape(record.example["image"])
    expected: dict[str, tuple] = {
        "pairs": (np.shape(record.pairs), (members * (members - 1) // 2, 2)),
        "cka": (np.shape(np.array(record.cka, float)), (layers, len(pairs))),
        "unbiased_cka": (np.shape(np.array(record.unbiased_cka, float)), (layers, len(pairs))),
        "gradient_cosines": (np.shape(record.gradient_cosines), (len(pairs),)),
        "transfer": (np.shape(np.array(record.transfer, float)), (members, members)),
        "agreement_clean": (np.shape(record.agreement_clean), (members, members)),
        "agreement_adversarial": (np.shape(record.agreement_adversarial), (members, members)),
        "gradients": (np.shape(record.example["gradients"]), (members, *shape)),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise ValueError(f"{name} of shape {found}, expected {wanted}")
    name, epsilon = record.attack["name"], record.attack["epsilon"]
    if not isinstance(name, str) or not isinstance(epsilon, int | float):
        raise ValueError(f"attack {name!r} at epsilon {epsilon!r}")
    Hyperparameters(record.attack)  # refuses lists and objects
    if not isinstance(record.data, dict) or not isinstance(record.data.get("fingerprint"), str):
        raise ValueError("data without a fingerprint")
