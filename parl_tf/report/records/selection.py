"""Selection of the records that a table or figure is made from."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from parl_tf.errors import InputError
from parl_tf.report.records.collection import Result
from parl_tf.report.records.labels import ordered_attacks, ordered_settings, sanitized
from parl_tf.results.keys import AttackKey
from parl_tf.results.records import ModelCard
from parl_tf.results.settings import Setting

SINGLE_SURROGATE = ("paper", "unlike-surrogates", "custom")
SEVERAL_SURROGATES = ("unlike-surrogates", "paper", "custom")
WHITE_BOX = ("white-box", "custom")
PREFERRED_EPSILON, LARGEST_EPSILON = 0.07, 0.1
_STANDARD = {"loss": "cross_entropy", "fusion": "probabilities"}


class Case(NamedTuple):
    """What was done to a target.

    Attributes:
        attack: The attack.
        epsilon: Its strength.
        surrogate: Fingerprint of the surrogate; None for the target itself.
    """

    attack: AttackKey
    epsilon: float
    surrogate: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Comparable results: of one data set, protocol and threat model, on the same images.

    Attributes:
        dataset: Name of the data set.
        protocol: Name of the protocol.
        threat_model: "black_box" or "white_box".
        results: Results of attacks, with all their restarts.
        clean: Results on the same images without an attack.
    """

    dataset: str
    protocol: str
    threat_model: str
    results: list[Result]
    clean: list[Result]

    @property
    def settings(self) -> list[Setting]:
        """Settings with a result, in the order of the tables."""
        return ordered_settings(result.setting for result in self.results)

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks with a result, in the order of the tables."""
        return ordered_attacks(result.record.attack for result in self.results)

    @property
    def epsilons(self) -> list[float]:
        """Epsilons with a result, ascending."""
        return sorted({result.record.epsilon for result in self.results})

    @property
    def surrogates(self) -> list[ModelCard]:
        """Surrogates in the order of their appearance."""
        cards: dict[str, ModelCard] = {}
        for result in self.results:
            if result.record.surrogate:
                cards.setdefault(result.record.surrogate.fingerprint, result.record.surrogate)
        return list(cards.values())

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the images that the results were measured on."""
        return self.results[0].record.data["fingerprint"]

    @property
    def num_examples(self) -> int:
        """Number of images."""
        return self.results[0].record.num_examples

    def standard(self, name: str) -> AttackKey | None:
        """The attack that represents all those of a name; None if it was not run.

        The one on the cross-entropy of the mean probability; of several, the one with the most
        steps, then the most restarts.
        """
        keys = [result.record.attack_key for result in self.results]
        found = dict.fromkeys(key for key in keys if key.name == name)
        return max(found, key=_standing, default=None)

    def cases(self, results: Iterable[Result] | None = None) -> list[Case]:
        """What was run, each case once, in the order of appearance."""
        chosen = self.results if results is None else results
        return list(dict.fromkeys(map(case_of, chosen)))


def case_of(result: Result) -> Case:
    """The case of a result."""
    record = result.record
    surrogate = record.surrogate.fingerprint if record.surrogate else None
    return Case(record.attack_key, record.epsilon, surrogate)


def groups_of(results: Sequence[Result]) -> list[Group]:
    """The groups of attacked results, in the order of appearance."""
    found: dict[tuple, list[Result]] = {}
    for result in results:
        record = result.record
        if record.threat_model != "clean" and result.is_whole:
            key = (result.dataset, record.protocol, record.threat_model)
            found.setdefault(key, []).append(result)
    groups = []
    for (dataset, protocol, threat_model), attacked in found.items():
        images = attacked[0].record.data["fingerprint"]
        groups.append(
            Group(
                dataset=dataset,
                protocol=protocol,
                threat_model=threat_model,
                results=attacked,
                clean=clean_on(results, dataset, images),
            )
        )
    return groups


def clean_on(results: Iterable[Result], dataset: str, images: str) -> list[Result]:
    """Results on clean images of a data set, of this fingerprint."""
    return [
        result
        for result in results
        if result.record.threat_model == "clean"
        and result.dataset == dataset
        and result.record.data["fingerprint"] == images
    ]


def find(
    groups: Iterable[Group], dataset: str, threat_model: str, protocols: Sequence[str]
) -> Group | None:
    """The group of a data set and threat model whose protocol comes first in `protocols`."""
    here = {g.protocol: g for g in groups if (g.dataset, g.threat_model) == (dataset, threat_model)}
    return next((here[name] for name in protocols if name in here), None)


def surrogate_labels(group: Group) -> dict[str, str]:
    """Names of a group's surrogates, by fingerprint; equal names are told apart by fingerprint."""
    names = [sanitized(card.name) for card in group.surrogates]
    return {
        card.fingerprint: name
        if names.count(name) == 1
        else f"{name} {sanitized(card.fingerprint)[:8]}"
        for card, name in zip(group.surrogates, names, strict=True)
    }


def chosen_epsilon(groups: Iterable[Group], given: float | None = None) -> float | None:
    """The epsilon of Table 1.

    Args:
        groups: The groups that the table is made from.
        given: The epsilon that was asked for, if any.

    Returns:
        The given epsilon; else 0.07 if it was run, else the largest epsilon up to 0.1, else the
        smallest one. None if no attack was run.

    Raises:
        InputError: The given epsilon was not run.
    """
    epsilons = sorted({epsilon for group in groups for epsilon in group.epsilons})
    if given is not None:
        if epsilons and given not in epsilons:
            listed = ", ".join(f"{epsilon:g}" for epsilon in epsilons)
            raise InputError(f"Expected an epsilon that was run: {listed}. Received: {given:g}.")
        return given
    if not epsilons or PREFERRED_EPSILON in epsilons:
        return PREFERRED_EPSILON if epsilons else None
    return max((e for e in epsilons if e <= LARGEST_EPSILON), default=epsilons[0])


def where(results: Iterable[Result], **wanted: Any) -> list[Result]:
    """Results whose records have these attributes.

    `setting` is that of the result, and `surrogate` is a fingerprint, as in a `Case`.
    """
    tests: dict[str, Callable[[Result], Any]] = {
        "surrogate": lambda result: case_of(result).surrogate,
        "setting": lambda result: result.setting,
    }

    def value(result: Result, name: str) -> object:
        return tests[name](result) if name in tests else getattr(result.record, name)

    return [
        result
        for result in results
        if all(value(result, name) == expected for name, expected in wanted.items())
    ]


def _standing(attack: AttackKey) -> tuple[float, ...]:
    """Sort key: how many hyperparameters are the standard ones, then the attack's strength."""
    given = attack.hyperparameters
    usual = sum(given.get(name, value) == value for name, value in _STANDARD.items())
    numbers = (given.get("num_steps", 0), given.get("restarts", 1))
    strength = tuple(n if isinstance(n, int | float) else 0 for n in numbers)
    return (usual, *strength)
