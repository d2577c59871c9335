"""Records of evaluation results, from which tables and figures are made."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from parl_tf.errors import InputError
from parl_tf.results.keys import AttackKey, Hyperparameters, RecordKey
from parl_tf.training.config import RunConfig
from parl_tf.training.fields import check_names, check_text, json_object, wrong

FORMAT = 2
THREAT_MODELS = ("clean", "black_box", "white_box")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The description of a model in a record.

    Attributes:
        name: Its name in tables.
        fingerprint: Hash of its weights.
        config: Configuration of the run that trained it; None for a bare Keras file.

    Raises:
        InputError: `config` is neither a `RunConfig` nor None.
    """

    name: str
    fingerprint: str
    config: RunConfig | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.config, RunConfig | None):
            raise wrong("the configuration of a model", "a RunConfig or None", self.config)

    def to_json(self) -> dict[str, Any]:
        """The card as a JSON value."""
        config = self.config and self.config.to_json()
        return {"name": self.name, "fingerprint": self.fingerprint, "config": config}

    @classmethod
    def from_json(cls, value: Any) -> "ModelCard":
        """The card in a JSON value that `to_json` returned, in this version or an older one.

        Raises:
            InputError: A field is missing, unknown or of the wrong type.
        """
        card = json_object("the card of a model", value)
        check_names(card, ("name", "fingerprint"), ("config",))
        for name in ("name", "fingerprint"):
            check_text(name, card[name])
        given = card.get("config")
        config = None if given is None else RunConfig.from_json(given)
        return cls(name=card["name"], fingerprint=card["fingerprint"], config=config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The result of one target on one set of images: clean, or under one attack.

    Attributes:
        target: The evaluated model.
        threat_model: "clean"; "black_box", crafted on the surrogate; or "white_box", crafted on
            the target itself.
        surrogate: The model that the examples were crafted on, if not the target.
        protocol: Name of the protocol that the record belongs to; "custom" for none.
        attack: Name of the attack; "clean" for none.
        hyperparameters: Hyperparameters of the attack.
        epsilon: Radius of the ball in pixel units of [0, 1]; 0 for clean images.
        correct: For each restart, a 0 or 1 per image: whether the majority vote is right.
        mean_right: For each restart, the fraction of images that the mean probability gets right.
        tied: For each restart, the fraction of votes that were tied.
        unmoved: For each restart, the fraction of images that the attack returned unchanged.
        seed: Seed of the attack's random draws.
        batch_size: Images attacked at a time.
        seconds: Wall time of crafting and evaluation; crafting is shared by the targets of a
            surrogate.
        data: Description of the images: their own `fingerprint`, `num_examples`, and, where known,
            name and fingerprint of the data set and how they were drawn.
        versions: Versions of the packages, and whether oneDNN's kernels were used.

    Example:
        >>> clean, fgsm, pgd = records
        >>> pgd.target.name, pgd.attack, pgd.threat_model, pgd.num_examples
        ('mine', 'pgd', 'white_box', 8)
        >>> np.shape(pgd.correct)  # restarts and images
        (3, 8)
        >>> pgd.worst_case_accuracy <= pgd.accuracy
        True
    """

    target: ModelCard
    threat_model: str
    surrogate: ModelCard | None
    protocol: str
    attack: str
    hyperparameters: dict[str, Any]
    epsilon: float
    correct: list[list[int]]
    mean_right: list[float]
    tied: list[float]
    unmoved: list[float]
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
        """Fraction of images that the vote gets right, averaged over restarts."""
        return float(np.mean(self.correct))

    @property
    def survived(self) -> np.ndarray:
        """Bool array (images,): whether the vote is right after every restart."""
        return np.all(self.correct, axis=0)

    @property
    def worst_case_accuracy(self) -> float:
        """Fraction of images that the vote gets right after every restart."""
        return float(self.survived.mean())

    @property
    def mean_probability_accuracy(self) -> float:
        """Fraction of images that the mean probability gets right, averaged over restarts."""
        return float(np.mean(self.mean_right))

    @property
    def tie_rate(self) -> float:
        """Fraction of votes that were tied, averaged over restarts."""
        return float(np.mean(self.tied))

    @property
    def attack_key(self) -> AttackKey:
        """The key of the attack with its hyperparameters.

        Raises:
            InputError: A hyperparameter is a list or a mapping.
        """
        return AttackKey.of(self.attack, self.hyperparameters)

    @property
    def key(self) -> RecordKey:
        """Identifies the record within one evaluation."""
        crafted_on = self.surrogate.name if self.surrogate else None
        return RecordKey(
            self.target.name, self.threat_model, crafted_on, self.attack_key, self.epsilon
        )


def to_json(record: Record) -> dict[str, Any]:
    """A record as a JSON value.

    Masks are packed into strings of hexadecimal digits, four images per digit, the first image in
    the highest bit. Accuracies are included for readers without this package.
    """
    value = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    value["target"] = record.target.to_json()
    value["surrogate"] = record.surrogate and record.surrogate.to_json()
    value["correct"] = [
        np.packbits(np.array(mask, bool)).tobytes().hex() for mask in record.correct
    ]
    value["accuracy"] = record.accuracy
    value["worst_case_accuracy"] = record.worst_case_accuracy
    return value


def from_json(value: Any) -> Record:
    """The record in a JSON value that `to_json` returned.

    Raises:
        InputError: A field is missing, of the wrong type, or contradicts another one.
    """
    try:
        given = {field.name: value[field.name] for field in dataclasses.fields(Record)}
        given["target"] = ModelCard.from_json(given["target"])
        if given["surrogate"] is not None:
            given["surrogate"] = ModelCard.from_json(given["surrogate"])
        given["correct"] = [
            _unpack(mask, value["data"]["num_examples"]) for mask in given["correct"]
        ]
        record = Record(**given)
        _check(record)
        for name in ("accuracy", "worst_case_accuracy"):
            if not math.isclose(value[name], getattr(record, name), abs_tol=1e-12):
                raise ValueError(f"{name} does not match the masks")
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(f"Expected a result record. Received one with: {error!r}.") from error
    return record


def _unpack(mask: str, count: object) -> list[int]:
    """The bits of a packed mask."""
    packed = np.frombuffer(bytes.fromhex(mask), "uint8")
    if type(count) is not int or count < 1 or len(packed) != -(-count // 8):
        raise ValueError(f"a mask of {len(packed)} bytes for {count!r} examples")
    bits = np.unpackbits(packed)
    if bits[count:].any():
        raise ValueError(f"a mask of more than {count} examples")
    unpacked: list[int] = bits[:count].tolist()
    return unpacked


def _check(record: Record) -> None:
    """Raises ValueError unless the fields of a record are valid and consistent."""
    texts = [record.protocol, record.attack]
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"names that are not text: {texts}")
    if record.threat_model not in THREAT_MODELS or not 0 <= record.epsilon <= 1:
        raise ValueError(f"threat model {record.threat_model!r}, epsilon {record.epsilon!r}")
    if (record.surrogate is not None) != (record.threat_model == "black_box"):
        raise ValueError(
            f"threat model {record.threat_model!r} and surrogate contradict each other"
        )
    clean = record.threat_model == "clean"
    if clean != (record.attack == "clean") or clean != (record.epsilon == 0):
        raise ValueError(
            f"threat model {record.threat_model!r}, attack {record.attack!r} and epsilon "
            f"{record.epsilon!r} contradict each other"
        )
    if not record.correct:
        raise ValueError("no mask")
    for name in ("mean_right", "tied", "unmoved"):
        parts = getattr(record, name)
        if len(parts) != len(record.correct) or not all(0 <= part <= 1 for part in parts):
            raise ValueError(f"{name} is not a fraction for each restart")
    objects = (record.hyperparameters, record.data, record.versions)
    if not all(isinstance(part, dict) for part in objects):
        raise ValueError("hyperparameters, data or versions that are not objects")
    Hyperparameters(record.hyperparameters)  # refuses lists and objects
    if not isinstance(record.data.get("fingerprint"), str):
        raise ValueError("data without a fingerprint")
    if type(record.seed) is not int or type(record.batch_size) is not int:
        raise ValueError(f"seed {record.seed!r}, batch size {record.batch_size!r}")
    if not (record.seed >= 0 and record.batch_size >= 1 and 0 <= record.seconds < math.inf):
        numbers = (record.seed, record.batch_size, record.seconds)
        raise ValueError(f"seed, batch size or seconds out of range: {numbers}")


def survived_all(records: Sequence[Record]) -> np.ndarray:
    """Bool array (images,): which images survive in all of the given records of one target.

    Raises:
        InputError: No records, or records of different targets or images.

    Example:
        >>> survived = parl_tf.survived_all(records)
        >>> survived.shape, survived.dtype
        ((8,), dtype('bool'))
    """
    kinds = {(record.target.fingerprint, record.data["fingerprint"]) for record in records}
    if len(kinds) != 1:
        raise InputError(
            f"Expected records of one target and the same images. Received: {len(kinds)} kinds."
        )
    return np.all([record.survived for record in records], axis=0)
