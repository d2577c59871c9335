"""Where numbers come from: files, models, attacks and versions, each listed once."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from parl_tf.report.records.collection import Origin, Result, Source
from parl_tf.report.records.labels import dataset_label, sanitized, seed_of
from parl_tf.report.tables.captions import described
from parl_tf.results.keys import AttackKey
from parl_tf.results.records import ModelCard
from parl_tf.results.settings import Setting

_UNKNOWN = "unknown"

Model = tuple[str, str, str, str, str]
"""Setting, name, fingerprint, seed and training data of a model, as texts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What a number was computed from.

    Attributes:
        name: Its name on the page.
        files: Names of the files in their list.
        protocols: Protocols.
        targets: Names of the targets in the list of models.
        surrogates: Names of the surrogates in the list of models.
        on_itself: Whether examples were crafted on each target itself.
        attacks: Names of the attacks in their list; empty for clean images.
        epsilons: Strengths of the attacks.
        num_examples: Numbers of images.
        seeds: Seeds of the attacks' draws.
        seconds: Wall time in seconds.
        versions: Names of the sets of versions in their list.
    """

    name: str
    files: tuple[str, ...]
    protocols: str
    targets: tuple[str, ...]
    surrogates: tuple[str, ...]
    on_itself: bool
    attacks: tuple[str, ...]
    epsilons: str
    num_examples: str
    seeds: str
    seconds: str
    versions: tuple[str, ...]


class Provenance:
    """The lists that say what a report's numbers were computed from.

    Args:
        sources: All files of the report.
        numbers: The results behind each number. Numbers of the same results share an entry.
    """

    def __init__(self, sources: Sequence[Source], numbers: Iterable[Sequence[Origin]]) -> None:
        self._files = {source: f"F{number}" for number, source in enumerate(sources, 1)}
        self._models: dict[Model, str] = {}
        self._attacks: dict[AttackKey, str] = {}
        self._versions: dict[str, str] = {}
        self._entries: dict[tuple[Origin, ...], Entry] = {}
        for origins in map(tuple, numbers):
            if origins not in self._entries:
                self._entries[origins] = self._entry(f"N{len(self._entries) + 1}", origins)

    def name_of(self, origins: Sequence[Origin]) -> str:
        """Name of the entry for the results that a number was computed from."""
        return self._entries[tuple(origins)].name

    @property
    def entries(self) -> list[Entry]:
        """The entries, in the order of their numbers."""
        return list(self._entries.values())

    @property
    def files(self) -> list[tuple[str, ...]]:
        """For each file its name in the lists, its path, its checksum and a remark."""
        return [
            (name, source.file, source.checksum, "" if source.finished else "unfinished")
            for source, name in self._files.items()
        ]

    @property
    def models(self) -> list[tuple[str, ...]]:
        """For each model its name in the lists and what a `Model` holds."""
        return [(name, *model) for model, name in self._models.items()]

    @property
    def attacks(self) -> list[tuple[str, ...]]:
        """For each attack its name in the lists, and the attack with its hyperparameters."""
        return [(name, described(attack)) for attack, name in self._attacks.items()]

    @property
    def versions(self) -> list[tuple[str, ...]]:
        """For each set of versions its name in the lists, and the versions."""
        return [(name, text) for text, name in self._versions.items()]

    def _entry(self, name: str, origins: Sequence[Origin]) -> Entry:
        """The entry of some results."""
        records = [origin.record for origin in origins]
        attacked = [origin for origin in origins if _is_attacked(origin)]
        results = [origin for origin in attacked if isinstance(origin, Result)]
        surrogates = [result.record.surrogate for result in results if result.record.surrogate]
        protocols = [o.record.protocol if isinstance(o, Result) else "diversity" for o in origins]
        return Entry(
            name=name,
            files=_distinct(self._files[origin.source] for origin in origins),
            protocols=_texts(protocols),
            targets=_distinct(self._model(record.target) for record in records),
            surrogates=_distinct(map(self._model, surrogates)),
            on_itself=len(surrogates) < len(results),
            attacks=_distinct(self._attack(origin.record.attack_key) for origin in attacked),
            epsilons=_texts(f"{_epsilon(origin):g}" for origin in attacked),
            num_examples=_texts(f"{record.data['num_examples']:,}" for record in records),
            seeds=_texts(str(record.seed) for record in records),
            seconds=f"{sum(record.seconds for record in records):,.1f}",
            versions=_distinct(self._version(record.versions) for record in records),
        )

    def _model(self, card: ModelCard) -> str:
        """Name of a model in its list."""
        seed = seed_of(card)
        trained_on = _UNKNOWN
        if card.config:
            data = card.config.dataset
            trained_on = f"{dataset_label(sanitized(data.name))} ({sanitized(data.fingerprint)})"
        model = (
            Setting.of(card).label,
            sanitized(card.name),
            sanitized(card.fingerprint),
            _UNKNOWN if seed is None else str(seed),
            trained_on,
        )
        return self._models.setdefault(model, f"M{len(self._models) + 1}")

    def _attack(self, attack: AttackKey) -> str:
        """Name of an attack in its list."""
        return self._attacks.setdefault(attack, f"A{len(self._attacks) + 1}")

    def _version(self, versions: Mapping[str, str]) -> str:
        """Name of a set of versions in its list."""
        text = ", ".join(f"{sanitized(package)} {sanitized(v)}" for package, v in versions.items())
        return self._versions.setdefault(text or _UNKNOWN, f"V{len(self._versions) + 1}")


def _is_attacked(origin: Origin) -> bool:
    """Whether a result involves an attack."""
    return not isinstance(origin, Result) or origin.record.threat_model != "clean"


def _epsilon(origin: Origin) -> float:
    """Strength of a result's attack."""
    if isinstance(origin, Result):
        return origin.record.epsilon
    return float(origin.record.attack["epsilon"])


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct names in the order of their first appearance."""
    return tuple(dict.fromkeys(names))


def _texts(texts: Iterable[str]) -> str:
    """Distinct texts, separated by commas."""
    return ", ".join(_distinct(map(sanitized, texts)))
