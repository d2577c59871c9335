"""How differently the members of an ensemble see, as a record for figures and tables."""

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
    """Measures of one ensemble on clean test images. Arrays are nested lists.

    Attributes:
        target: The ensemble.
        data: What the images are, as in a `Record`.
        tap: Which output of a convolution is a layer's representation.
        pairs: Index pairs (i, j) of members, in the order of every list of pairs.
        cka: (layers, pairs), linear CKA, biased, as in the paper; null where it is not defined.
        unbiased_cka: (layers, pairs), the same without bias.
        gradient_cosines: (pairs,), mean cosine of the members' loss gradients.
        attack: What `transfer` was measured with: name, hyperparameters and `epsilon`.
        transfer: (members, members), part of what member j gets right that is lost on examples
            crafted on member i; null where it gets nothing right.
        agreement_clean: (members, members), part of the images that i and j label alike.
        agreement_adversarial: The same on examples crafted on the ensemble.
        example: One image: `image` (height, width, channels), `label`, and `gradients`, each
            member's loss gradient of that shape, scaled to a largest entry of 1.
        seed: Seed of the attack's draws.
        seconds: Wall time.
        versions: Versions of the packages.

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
        """The attack that `transfer` was measured with, to compare."""
        given = {k: v for k, v in self.attack.items() if k not in ("name", "epsilon")}
        return AttackKey.of(self.attack["name"], given)

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON value."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "target": self.target.to_json()}


def save_diversity(record: DiversityRecord, path: str | os.PathLike) -> None:
    """Writes a record to a JSON file, whole or not at all.

    Raises:
        ExistingRunError: It cannot be written there.

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
        MissingFileError: No such file.
        UnreadableFileError: Truncated, edited by hand, of another format, or something else.

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
        raise UnreadableFileError(f"{path} holds no record of diversity: {error!r}") from error
    return record


def _check(record: DiversityRecord) -> None:
    """Raises ValueError unless the arrays of a record fit each other."""
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
