"""Cases of an evaluation, run one by one: craft, judge the targets, record the verdicts."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from parl_tf.attacks.base import Attack, Crafter
from parl_tf.data.examples import Split
from parl_tf.evaluation.examples import ExampleWriter, key_of
from parl_tf.evaluation.judging import Judge, Verdict, judge_all, measured
from parl_tf.results.files import ResultStore
from parl_tf.results.keys import CLEAN, RecordKey
from parl_tf.results.records import ModelCard, Record

Progress = Callable[[str, float], None]


class Case(NamedTuple):
    """One attack at one strength under one threat model.

    Attributes:
        threat_model: "black_box", crafted on each surrogate; or "white_box", crafted on each
            target itself.
        attack: The attack.
        epsilon: Radius of the L-infinity ball, in pixel units of [0, 1].

    Example:
        >>> case = parl_tf.Case("white_box", parl_tf.FGSM(), 0.1)
        >>> [record.threat_model for record in parl_tf.evaluate_cases(ensemble, case, sample)]
        ['clean', 'white_box']
    """

    threat_model: str
    attack: Attack
    epsilon: float


class ProgressCount:
    """Counts attacked images, for a progress bar."""

    def __init__(self, report: Progress | None, total: int) -> None:
        self._report, self._total = report, max(total, 1)
        self._done, self._description = 0, ""

    def say(self, description: str) -> None:
        """Announces what comes next."""
        self._description = description
        self.advance(0)

    def advance(self, count: int) -> None:
        """Counts `count` more images."""
        self._done += count
        if self._report:
            self._report(self._description, self._done / self._total)


class Part(NamedTuple):
    """A case on one model that examples are crafted on, and the targets that see them."""

    case: Case
    crafted_on: str
    model: keras.Model
    judged: tuple[str, ...]

    @property
    def surrogate(self) -> str | None:
        """Name of the surrogate in the black box, else None."""
        return self.crafted_on if self.case.threat_model == "black_box" else None

    def key(self, target: str) -> RecordKey:
        """Key of a target's record."""
        case = self.case
        return RecordKey(
            target, case.threat_model, self.surrogate, key_of(case.attack), case.epsilon
        )


def crafting(
    cases: Sequence[Case],
    targets: Mapping[str, keras.Model],
    surrogates: Mapping[str, keras.Model],
) -> Iterator[Part]:
    """What to craft: in the black box on every surrogate for all targets, else on each target.

    All strengths of one attack on one model follow each other, as they share one graph.
    """
    alike: dict[tuple, list[Case]] = {}
    for case in cases:
        alike.setdefault((case.threat_model, case.attack), []).append(case)
    for (threat_model, _), group in alike.items():
        if threat_model == "black_box":
            models = [(name, model, tuple(targets)) for name, model in surrogates.items()]
        else:
            models = [(name, model, (name,)) for name, model in targets.items()]
        for name, model, judged in models:
            for case in group:
                yield Part(case, name, model, judged)


@dataclasses.dataclass(kw_only=True)
class CaseRunner:
    """Runs cases and stores their records."""

    examples: Split
    cards: dict[str, ModelCard]
    judges: dict[str, Judge]
    common: dict[str, Any]
    store: ResultStore
    writer: ExampleWriter | None
    progress: ProgressCount
    crafter: tuple[Any, Crafter] | None = None

    def judge_clean(self) -> None:
        """Stores the records on clean images that the store lacks."""
        for name, judge in self.judges.items():
            if self.store.get(RecordKey(name, "clean", None, CLEAN, 0.0)) is None:
                began = time.monotonic()
                verdict = self._judge({name: judge})[name]
                seconds = time.monotonic() - began
                self.store.put([self._record(name, None, verdict, seconds)])

    def run(self, part: Part) -> None:
        """Stores the records of a case, restart by restart, that the store lacks."""
        case, crafted_on = part.case, self.cards[part.crafted_on]
        keys = {name: part.key(name) for name in part.judged}
        self.progress.say(f"{case.attack.name} at {case.epsilon:g} on {part.crafted_on}")
        for restart in range(case.attack.restarts):
            known = {name: self.store.get(key) for name, key in keys.items()}
            missing = [n for n, r in known.items() if r is None or len(r.correct) <= restart]
            which = (crafted_on, case.attack, case.epsilon, restart)
            if not missing and (self.writer is None or self.writer.has(*which)):
                self.progress.advance(len(self.examples))
                continue
            began = time.monotonic()
            keep = self.writer.begin(*which) if self.writer else None
            craft = functools.partial(
                self._crafter(part),
                epsilon=case.epsilon,
                seed=self.common["seed"],
                restart=restart,
            )
            verdicts = self._judge({name: self.judges[name] for name in missing}, craft, keep)
            if self.writer:
                self.writer.end()
            seconds = time.monotonic() - began
            self.store.put(
                _extend(known[name], self._record(name, part, verdict, seconds))
                for name, verdict in verdicts.items()
            )

    def _crafter(self, part: Part) -> Crafter:
        """The attack on the model, reused from the previous case if it is the same."""
        which = (part.crafted_on, part.case.attack)
        if self.crafter is None or self.crafter[0] != which:
            self.crafter = (which, part.case.attack.prepare(part.model))
        return self.crafter[1]

    def _judge(
        self,
        judges: Mapping[str, Judge],
        craft: Callable[..., np.ndarray] | None = None,
        keep: Callable[[np.ndarray], None] | None = None,
    ) -> dict[str, Verdict]:
        """Verdicts on the clean images, or on the examples crafted from them."""
        size = self.common["batch_size"]

        def shown(batch: Split, first: int) -> np.ndarray:
            images = batch.images
            if craft:
                images = craft(images, batch.labels, first_index=first, batch_size=size)
                self.progress.advance(len(batch))
            if keep:
                keep(images)
            return images

        return judge_all(judges, self.examples, shown, size)

    def _record(self, name: str, part: Part | None, verdict: Verdict, seconds: float) -> Record:
        """The record of one target's verdict; without a part, on clean images."""
        return Record(
            target=self.cards[name],
            threat_model=part.case.threat_model if part else "clean",
            surrogate=self.cards[part.surrogate] if part and part.surrogate else None,
            attack=part.case.attack.name if part else "clean",
            hyperparameters=dataclasses.asdict(part.case.attack) if part else {},
            epsilon=part.case.epsilon if part else 0.0,
            seconds=seconds,
            **measured([verdict]),
            **self.common,
        )


def _extend(record: Record | None, further: Record) -> Record:
    """A record with the restarts of another one appended."""
    if record is None:
        return further
    lists = ("correct", "mean_right", "tied", "unmoved")
    joined = {name: getattr(record, name) + getattr(further, name) for name in lists}
    return dataclasses.replace(record, **joined, seconds=record.seconds + further.seconds)
