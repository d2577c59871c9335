"""Keys that identify attacks and results."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

from parl_tf.errors import InputError


class Hyperparameters(Mapping[str, Any]):
    """Hyperparameters of an attack, comparable and hashable.

    They are equal if their names and values are, regardless of order. Numbers compare by value, as
    in Python: 1 equals 1.0.

    Args:
        values: Numbers, text, booleans or None, by name.

    Raises:
        InputError: A value is a list or a mapping.

    Example:
        >>> one, other = {"num_steps": 5, "loss": "margin"}, {"loss": "margin", "num_steps": 5.0}
        >>> Hyperparameters(one) == Hyperparameters(other)
        True
        >>> print(Hyperparameters(one))
        loss='margin', num_steps=5
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(sorted(values.items()))
        for name, value in self._values.items():
            if isinstance(value, dict | list):
                raise InputError(
                    f"Expected a number, text, boolean or None for {name}. Received: {value!r}."
                )

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._values.items())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"


@dataclasses.dataclass(frozen=True)
class AttackKey:
    """An attack: its name and its hyperparameters, without its strength."""

    name: str
    hyperparameters: Hyperparameters

    @classmethod
    def of(cls, name: str, hyperparameters: Mapping[str, Any]) -> Self:
        """The key of an attack with these hyperparameters.

        Raises:
            InputError: A value is a list or a mapping.
        """
        return cls(name, Hyperparameters(hyperparameters))

    def __str__(self) -> str:
        return f"{self.name}({self.hyperparameters})"


CLEAN = AttackKey.of("clean", {})
"""The attack of a result on clean images."""


class RecordKey(NamedTuple):
    """Identifies a record within one evaluation; models by name."""

    target: str
    threat_model: str
    surrogate: str | None
    attack: AttackKey
    epsilon: float
