"""The configuration of a run, as stored in its folder and in records. Imports no TensorFlow."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from parl_tf.training.fields import (
    check_integer,
    check_names,
    check_text,
    json_copy,
    json_object,
    wrong,
)
from parl_tf.training.migration import FORMAT, migrated
from parl_tf.training.recipe import Recipe

OWN_START = "start"
"""Subfolder of a run for the ensemble that the run itself trains to start from."""
_MOST_MEMBERS, _MOST_DEVICES, _LARGEST_SEED = 1000, 256, 2**31 - 1
_UNCOMPARED = ("versions", "commit")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The examples that a run is trained on.

    Attributes:
        name: Name of the data set.
        fingerprint: Hash of the whole data set, before the split.
        train_examples: Number of training examples.
        validation_examples: Number of validation examples.
        seed: Seed of the split; None if unknown.
    """

    name: str
    fingerprint: str
    train_examples: int
    validation_examples: int
    seed: int | None = None

    def __post_init__(self) -> None:
        check_text("dataset.name", self.name)
        check_text("dataset.fingerprint", self.fingerprint)
        check_integer("dataset.train_examples", self.train_examples, 1)
        check_integer("dataset.validation_examples", self.validation_examples, 0)
        if self.seed is not None:
            check_integer("dataset.seed", self.seed, 0, _LARGEST_SEED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """The trained ensemble whose weights a run starts from.

    Attributes:
        run: Run folder or Keras file; "start" for the run's own subfolder `start`.
        method: Method of that run; None if unknown.
        seed: Seed of that run; None if unknown.
    """

    run: str
    method: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        check_text("start_from.run", self.run)
        if self.method is not None:
            check_text("start_from.method", self.method)
        if self.seed is not None:
            check_integer("start_from.seed", self.seed, 0, _LARGEST_SEED)

    @property
    def is_own(self) -> bool:
        """Whether the run itself trains this ensemble."""
        return self == Start(run=OWN_START)

    def to_json(self) -> dict[str, Any]:
        """The known fields, as a JSON value."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run's weights, and what it was trained with.

    Attributes:
        method: Name of the training method.
        arguments: The resolved keyword arguments of its class, as JSON values.
        num_members: Number of members.
        seed: Determines initial weights, order of examples, augmentation and the method's random
            draws.
        recipe: How it is trained, including the members' network.
        start_from: The ensemble that it starts from; None for random initial weights.
        dataset: The data that it is trained on.
        deterministic: Whether it is reproducible bit for bit.
        devices: Number of devices that it is trained on.
        versions: Versions of this package and of the packages that numerical results depend on,
            and whether oneDNN's kernels were used.
        commit: Commit of the checkout of this package, followed by "-dirty" if tracked files were
            changed; None for an installed package, or if unknown.

    Raises:
        InputError: A field has an invalid value; the message names the field.
    """

    method: str
    arguments: Mapping[str, Any]
    num_members: int
    seed: int
    recipe: Recipe
    dataset: TrainingData
    start_from: Start | None = None
    deterministic: bool = False
    devices: int = 1
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    commit: str | None = None

    def __post_init__(self) -> None:
        check_text("method", self.method)
        check_integer("seed", self.seed, 0, _LARGEST_SEED)
        check_integer("num_members", self.num_members, 2, _MOST_MEMBERS)
        check_integer("devices", self.devices, 1, _MOST_DEVICES)
        object.__setattr__(self, "arguments", json_copy("arguments", self.arguments))
        object.__setattr__(self, "versions", json_copy("versions", self.versions))
        if self.arguments.get("seed", self.seed) != self.seed:
            raise wrong("arguments.seed", f"the run's seed, {self.seed}", self.arguments["seed"])
        for name, value in self.versions.items():
            check_text(f"versions.{name}", value)
        if self.commit is not None:
            check_text("commit", self.commit)
        kinds = {"recipe": Recipe, "dataset": TrainingData, "deterministic": bool}
        for field, kind in kinds.items():
            if not isinstance(getattr(self, field), kind):
                raise wrong(field, kind.__name__, getattr(self, field))
        if not isinstance(self.start_from, Start | None):
            raise wrong("start_from", "Start or None", self.start_from)

    @property
    def is_adversarially_trained(self) -> bool:
        """Whether the cross-entropy sees adversarial examples."""
        return bool(self.arguments.get("adversarial_training"))

    def differences(self, other: "RunConfig") -> list[str]:
        """Names of the fields that differ in another configuration, except versions and commit."""
        compared = (field.name for field in dataclasses.fields(self))
        return [
            name
            for name in compared
            if name not in _UNCOMPARED and getattr(self, name) != getattr(other, name)
        ]

    def to_json(self) -> dict[str, Any]:
        """The configuration as a JSON value, with its format number."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            "format": FORMAT,
            **values,
            "arguments": json_copy("arguments", self.arguments),
            "recipe": self.recipe.to_json(),
            "dataset": dataclasses.asdict(self.dataset),
            "start_from": self.start_from and self.start_from.to_json(),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, value: Any) -> "RunConfig":
        """The configuration in a JSON value that this version or an older one wrote.

        Raises:
            InputError: A newer version wrote it, or a field is missing, unknown or invalid; the
                message names the field.
        """
        given = migrated(json_object("the configuration of a run", value))
        del given["format"]
        check_names(given, _names_of(cls))
        start = given["start_from"]
        return cls(
            **{
                **given,
                "recipe": Recipe.from_json(given["recipe"]),
                "dataset": TrainingData(
                    **_part("dataset", given["dataset"], _names_of(TrainingData))
                ),
                "start_from": None
                if start is None
                else Start(**_part("start_from", start, ("run",), ("method", "seed"))),
            }
        )


def _names_of(kind: type) -> list[str]:
    """Names of the fields of a dataclass."""
    return [field.name for field in dataclasses.fields(kind)]


def _part(
    name: str, value: object, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, Any]:
    """The fields of an object nested in a configuration."""
    part = json_object(name, value)
    check_names(part, required, optional, of=f"{name}.")
    return part
