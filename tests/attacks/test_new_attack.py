"""An attack that is registered with what it is, and nothing else, is known everywhere."""

import dataclasses

import pytest
from harness.report_records import card, hyperparameters, record, write_records

from parl_tf.attacks import ATTACKS, AttackEntry
from parl_tf.attacks.base import Attack
from parl_tf.attacks.gradient import GradientAttack, gradient_step
from parl_tf.cli import attack as tool
from parl_tf.evaluation.diagnostics import masking_checks
from parl_tf.protocols.base import make_attack
from parl_tf.report import accuracy_table, write_report

TARGET = card("parl7", 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HalfStep(GradientAttack):
    name = "half-step"

    def perturb(self, model, batch):
        gradient = self.gradient(model, batch.images, batch.labels)
        return gradient_step(batch.images, gradient, batch.epsilon / 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guess(Attack):
    name = "guess"

    def perturb(self, model, batch):
        return batch.images


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(ATTACKS, "entries", dict(ATTACKS.entries))
    monkeypatch.setattr(ATTACKS, "_entries", dict(ATTACKS._entries))
    ATTACKS.register(
        "half-step",
        AttackEntry(
            path=f"{__name__}:HalfStep", label="Half FGSM", gradient_based=True, one_step=True
        ),
    )
    ATTACKS.register(
        "guess", AttackEntry(path=f"{__name__}:Guess", label="Guessing", gradient_based=False)
    )


def attacked(attack, surviving, protocol, *, unmoved=0.0, **changes):
    settings = hyperparameters(attack, **changes)
    mask = [int(index < surviving) for index in range(40)]
    return record(
        target=TARGET,
        protocol=protocol,
        threat_model="white_box",
        attack=attack,
        hyperparameters=settings,
        epsilon=0.03,
        correct=[mask] * settings.get("restarts", 1),
        unmoved=[unmoved] * settings.get("restarts", 1),
    )


def clean(protocol):
    return record(target=TARGET, protocol=protocol)


DIAGNOSED = [
    clean("diagnostics"),
    attacked("pgd", 36, "diagnostics"),
    attacked("uniform-noise", 32, "diagnostics"),
    attacked("half-step", 8, "diagnostics", unmoved=0.5),
    attacked("guess", 20, "diagnostics"),
]


def outcomes(records):
    return {check.check: (check.passed, check.detail) for check in masking_checks(records)}


def test_it_is_made_by_name_and_offered_by_the_command_line(registered):
    assert make_attack("half-step", {}, loss="margin", num_steps=3) == HalfStep(loss="margin")
    assert make_attack("guess", {}) == Guess()
    given = ["--target", "parl", "--attack", "half-step", "guess", "--epsilon", "0.1"]
    cases = tool.cases_of(tool.parser().parse_args(given))
    assert [case.attack for case in cases] == [HalfStep(), Guess()]
    assert ", half-step, guess" in " ".join(tool.parser().format_help().split())


def test_one_that_follows_gradients_is_in_the_worst_case_and_one_step_may_vanish(registered):
    found = outcomes(DIAGNOSED)
    search = "a search without gradients does no better"
    assert found[search] == (True, "at 0.03 Guessing 50.0, gradients 20.0")
    noise = "noise of the same size does far less"
    assert found[noise] == (True, "at 0.03 noise costs 20.0, attack 80.0")
    vanishing = "gradients do not vanish"
    assert found[vanishing] == (False, "at 0.03 unmoved by Half FGSM 50.0")
    without = outcomes([entry for entry in DIAGNOSED if entry.attack != "half-step"])
    assert without[search] == (False, "at 0.03 Guessing 50.0, gradients 90.0")
    assert without[noise][0] is False
    assert without[vanishing][0] is None


def test_without_an_entry_it_is_in_no_worst_case():
    assert outcomes(DIAGNOSED)["noise of the same size does far less"][0] is False


def test_tables_and_reports_call_it_by_its_label_behind_the_others(registered, tmp_path):
    header, _ = accuracy_table(DIAGNOSED)
    assert header[-3:] == ["uniform noise", "Half FGSM", "Guessing"]

    evaluated = [
        clean("white-box"),
        *(attacked(name, 36, "white-box") for name in ("guess", "fgsm", "pgd")),
        attacked("half-step", 10, "white-box"),
        attacked("pgd", 30, "white-box", loss="margin"),
    ]
    for name, records in {"white-box": evaluated, "diagnostics": DIAGNOSED}.items():
        write_records(records, tmp_path / "results" / f"{name}.json")
    write_report(tmp_path / "results", tmp_path / "report")
    worst = (tmp_path / "report" / "worst.md").read_text(encoding="utf-8")
    assert "(FGSM, PGD, Half FGSM, Guessing)" in worst
    assert "| 25.0 |" in worst
    checks = (tmp_path / "report" / "diagnostics.md").read_text(encoding="utf-8")
    assert "at 0.03 Guessing 50.0, gradients 20.0" in checks
