"""Checks that a target's robustness is not an artefact of weak attacks.

Checks of particular attacks name them; all others select attacks by their entries in `ATTACKS`.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from parl_tf.attacks import ATTACKS, names
from parl_tf.results.records import Record

SMALL = 0.02
"""Differences of up to this fraction of the images are ignored."""
LITTLE = 0.05
"""The fraction of the images that more steps or restarts may cost."""
VANISHED = 0.01
"""The fraction of the images that a single gradient step may leave unchanged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One check of one target.

    Attributes:
        target: Name of the target.
        check: What was expected.
        passed: Whether it holds; None if the records that it needs are missing.
        detail: The numbers compared, in per cent of the images, or what is missing.
    """

    target: str
    check: str
    passed: bool | None
    detail: str


def masking_checks(records: Sequence[Record]) -> list[Check]:
    """Checks whether targets only mask their gradients.

    A target that fails may still be robust, but its white-box numbers do not show it. A
    difference counts if it exceeds `SMALL` and two standard errors of the images' paired
    differences.

    Args:
        records: Records of protocol "diagnostics", of any number of targets, all on the same
            images; records of other protocols are ignored.

    Returns:
        Eight checks for each target, in the order of the targets' appearance.

    Example:
        >>> cases = parl_tf.PROTOCOLS["diagnostics"].cases(attacks="fgsm")
        >>> records = parl_tf.evaluate_cases(
        ...     {"mine": ensemble}, cases, sample, protocol="diagnostics"
        ... )
        >>> checks = parl_tf.masking_checks(records)
        >>> {check.target for check in checks}, len(checks)
        ({'mine'}, 8)

    Source: Carlini et al. 2019, arXiv 1902.06705, section 5; the thresholds are this package's.
    """
    diagnosed = [record for record in records if record.protocol == "diagnostics"]
    checks = []
    for name in dict.fromkeys(record.target.name for record in diagnosed):
        own = [record for record in diagnosed if record.target.name == name]
        checks += [
            Check(target=name, check=text, passed=passed, detail=detail)
            for text, (passed, detail) in _Target(own).checks().items()
        ]
    return checks


Outcome = tuple[bool | None, str]


class _Target:
    """The records of one target."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._white = [record for record in records if record.threat_model == "white_box"]
        self._black = [record for record in records if record.threat_model == "black_box"]
        self._clean = [record for record in records if record.threat_model == "clean"]

    def checks(self) -> dict[str, Outcome]:
        """The outcome of each check, by what it expects."""
        return {
            "iterative attacks beat FGSM": self._iterative(),
            "accuracy falls with epsilon": self._falls(),
            "accuracy reaches 0 in a large ball": self._large_ball(),
            "more steps and restarts change little": self._more_budget(),
            "white box beats transfer, image by image": self._transfer(),
            "a search without gradients does no better": self._gradient_free(),
            "noise of the same size does far less": self._noise(),
            "gradients do not vanish": self._vanishing(),
        }

    def _iterative(self) -> Outcome:
        pairs = [
            (f"{_at(fgsm)} FGSM {_percent(fgsm.survived)}, BIM {_percent(bim.survived)}", bim, fgsm)
            for fgsm in self._of(names.FGSM)
            for bim in self._of(names.BIM, fgsm.epsilon)
        ]
        return _every((text, not _above(bim, fgsm)) for text, bim, fgsm in pairs)

    def _falls(self) -> Outcome:
        ladder = [*self._clean, *sorted(self._strongest(), key=lambda record: record.epsilon)]
        if len(ladder) < 3:
            return None, "not run: white-box PGD at two strengths, and clean images"
        text = ", ".join(f"{_at(record)} {_percent(record.survived)}" for record in ladder)
        falls = not any(_above(more, less) for less, more in itertools.pairwise(ladder))
        return falls, text

    def _large_ball(self) -> Outcome:
        largest = max(self._strongest(), key=lambda record: record.epsilon, default=None)
        if largest is None or largest.epsilon < 0.5:
            return None, "not run: white-box PGD at epsilon 0.5"
        return (
            float(largest.survived.mean()) <= SMALL,
            f"{_at(largest)} {_percent(largest.survived)}",
        )

    def _more_budget(self) -> Outcome:
        found = []
        for epsilon in self._epsilons():
            runs = self._pgd(epsilon)
            if len(runs) < 2:
                continue
            few, many = runs[0], runs[-1]
            first = np.asarray(few.correct[0], bool)
            costs = [_lost(first, few.survived), _lost(few.survived, many.survived)]
            measured = [f"{_at(few)} one start {_percent(first)}"]
            if (starts := len(few.correct)) > 1:
                measured.append(f"{starts} starts {_percent(few.survived)}")
            measured.append(f"{_num_steps(many)} steps {_percent(many.survived)}")
            found.append((", ".join(measured), max(costs) <= LITTLE))
        return _every(found)

    def _transfer(self) -> Outcome:
        found = []
        for epsilon in self._epsilons():
            white = self._worst(epsilon)
            transferred = [record.survived for record in self._black if record.epsilon == epsilon]
            if white is None or not transferred:
                continue
            black = np.all(transferred, axis=0)
            only = float((white & ~black).mean())
            text = f"at {epsilon:g} fooled by transfer alone {100 * only:.1f}"
            found.append((text, only <= SMALL))
        return _every(found)

    def _gradient_free(self) -> Outcome:
        found = []
        for name, entry in ATTACKS.entries.items():
            if entry.gradient_based or entry.control:
                continue
            for record in self._of(name):
                white = self._worst(record.epsilon)
                if white is None:
                    continue
                text = f"{_at(record)} {entry.label} {_percent(record.survived)}, "
                text += f"gradients {_percent(white)}"
                found.append((text, not _masks_above(white, record.survived)))
        return _every(found, "Square (extra art)")

    def _noise(self) -> Outcome:
        found = []
        controls = [name for name, entry in ATTACKS.entries.items() if entry.control]
        for record in (record for name in controls for record in self._of(name)):
            white = self._worst(record.epsilon)
            if white is None or not self._clean:
                continue
            clean = self._clean[0].survived
            lost_to_noise, lost = _lost(clean, record.survived), _lost(clean, white)
            text = f"{_at(record)} noise costs {100 * lost_to_noise:.1f}, attack {100 * lost:.1f}"
            found.append((text, lost_to_noise <= max(lost / 2, SMALL)))
        return _every(found)

    def _vanishing(self) -> Outcome:
        return _every(
            (
                f"{_at(record)} unmoved by {entry.label} {100 * max(record.unmoved):.1f}",
                max(record.unmoved) <= VANISHED,
            )
            for name, entry in ATTACKS.entries.items()
            if entry.one_step
            for record in self._of(name)
        )

    def _of(self, attack: str, epsilon: float | None = None) -> list[Record]:
        """White-box records of an attack."""
        return [
            record
            for record in self._white
            if record.attack == attack and epsilon in (None, record.epsilon)
        ]

    def _pgd(self, epsilon: float | None = None) -> list[Record]:
        """White-box records of PGD that give its number of steps, ascending."""
        counted = [r for r in self._of(names.PGD, epsilon) if isinstance(_num_steps(r), int)]
        return sorted(counted, key=_num_steps)

    def _epsilons(self) -> list[float]:
        """Strengths of the white-box records, ascending."""
        return sorted({record.epsilon for record in self._white})

    def _strongest(self) -> list[Record]:
        """For each strength the record of PGD with the most steps."""
        return list({record.epsilon: record for record in self._pgd()}.values())

    def _worst(self, epsilon: float) -> np.ndarray | None:
        """Which images survive every gradient-based attack at a strength."""
        based = {name for name, entry in ATTACKS.entries.items() if entry.gradient_based}
        masks = [
            record.survived
            for record in self._white
            if record.attack in based and record.epsilon == epsilon
        ]
        return np.all(masks, axis=0) if masks else None


def _num_steps(record: Record) -> Any:
    """Number of steps of a record's attack; None if a record from elsewhere does not give it."""
    return record.hyperparameters.get("num_steps")


def _above(one: Record, other: Record) -> bool:
    """Whether clearly more images survive `one` than `other`."""
    return _masks_above(one.survived, other.survived)


def _masks_above(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether clearly more images are set in `one` than in `other`."""
    differences = one.astype(float) - other
    error = differences.std() / math.sqrt(len(differences))
    return bool(differences.mean() > max(2 * error, SMALL))


def _lost(before: np.ndarray, after: np.ndarray) -> float:
    """The fraction of the images lost from `before` to `after`, from integer counts."""
    return (int(before.sum()) - int(after.sum())) / len(before)


def _every(outcomes: Iterable[tuple[str, bool]], needed: str = "white-box records") -> Outcome:
    """Several comparisons as one outcome: all must pass."""
    outcomes = list(outcomes)
    if not outcomes:
        return None, f"not run: {needed}"
    return all(passed for _, passed in outcomes), "; ".join(text for text, _ in outcomes)


def _at(record: Record) -> str:
    """The strength of a record."""
    return f"at {record.epsilon:g}" if record.epsilon else "clean"


def _percent(mask: np.ndarray) -> str:
    """The percentage of the images set in a mask."""
    return f"{100 * mask.mean():.1f}"
