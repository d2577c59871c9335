import subprocess
import sys

import pytest
from harness.run_configs import run_config

import parl_tf
from parl_tf.attacks import ATTACKS
from parl_tf.attacks.iterative import FGSM, PGD
from parl_tf.errors import InputError
from parl_tf.evaluation.cases import Case
from parl_tf.protocols import EPSILONS, PROTOCOLS
from parl_tf.protocols.base import make_attack

NAMES = list(PROTOCOLS)


@pytest.mark.parametrize("name", NAMES)
def test_cases_are_attacks_that_can_run(name):
    protocol = PROTOCOLS[name]
    cases = protocol.cases()
    assert protocol.name == name
    assert len(set(cases)) == len(cases) > 0
    for case in cases:
        assert case.threat_model in ("black_box", "white_box")
        assert isinstance(case.epsilon, float)
        assert isinstance(case.attack, ATTACKS[case.attack.name])
        case.attack.check_epsilon(case.epsilon)
    fewest, _ = protocol.num_surrogates
    assert bool(fewest) == any(case.threat_model == "black_box" for case in cases)


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_can_be_run_at_one_strength_by_some_attacks(name):
    protocol = PROTOCOLS[name]
    cases = protocol.cases(epsilons=[0.02, 0.02], attacks=["pgd"])
    assert {case.attack.name for case in cases} == {"pgd"}
    further = {epsilon for _, epsilon in protocol.further_white_box}
    assert {case.epsilon for case in cases} == {0.02, *further}


def test_the_paper_is_what_the_paper_did():
    cases = PROTOCOLS["paper"].cases()
    assert sorted({case.epsilon for case in cases}) == list(EPSILONS)
    assert {case.threat_model for case in cases} == {"black_box"}
    (pgd,) = {case.attack for case in cases if case.attack.name == "pgd"}
    assert (pgd.num_steps, pgd.restarts, pgd.step_size) == (50, 10, None)
    (mim,) = {case.attack for case in cases if case.attack.name == "mim"}
    assert mim.decay_factor == 0.01
    assert PROTOCOLS["paper"].num_surrogates == (1, 1)


def test_dverge_and_white_box_have_every_loss_with_every_fusion():
    for name, attacks in {
        "dverge": {"pgd", "mi-fgsm", "mdi2-fgsm", "sgm"},
        "white-box": {"pgd"},
    }.items():
        cases = [c for c in PROTOCOLS[name].cases() if c.attack.name in attacks]
        both = {(c.attack.name, c.attack.loss, c.attack.fusion) for c in cases}
        assert len(both) == len(attacks) * 2 * 3


def test_the_diagnostics_have_what_their_checks_need():
    cases = PROTOCOLS["diagnostics"].cases()
    white = [case for case in cases if case.threat_model == "white_box"]
    names = {case.attack.name for case in white}
    assert names == {"fgsm", "bim", "pgd", "uniform-noise", "square"}
    assert max(case.epsilon for case in white) == 0.5
    assert {case.attack.num_steps for case in white if case.attack.name == "pgd"} == {50, 200}


def test_hyperparameters_go_before_the_protocol_where_an_attack_has_them():
    cases = PROTOCOLS["paper"].cases(num_steps=7, restarts=2, loss="margin", step_size=None)
    for case in cases:
        assert case.attack.loss == "margin"
        if case.attack.name != "fgsm":
            assert (case.attack.num_steps, case.attack.step_size) == (7, None)
        assert case.attack.restarts == (2 if case.attack.name == "pgd" else 1)
    assert len(cases) == len(PROTOCOLS["paper"].cases())
    # Fewer: what differed in a hyperparameter that is now one is one case.
    fewer = PROTOCOLS["diagnostics"].cases(num_steps=7)
    pgd = [c for c in fewer if (c.threat_model, c.attack.name) == ("white_box", "pgd")]
    assert len(pgd) == 3 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attacks": ["pdg"]}, "attack of protocol paper. Did you mean pgd"),
        ({"attacks": ["square"]}, "attack of protocol paper. Expected one of fgsm, bim"),
        ({"epsilons": [0.0]}, "epsilon in"),
        ({"epsilons": [0.03, 2]}, "epsilon in"),
        ({"num_steps": 0}, "num_steps"),
        ({"step_size": 0.02}, "step_size of at most epsilon, 0.01"),
        ({"loss": "crossentropy"}, "Did you mean cross_entropy"),
        ({"fusion": "votes"}, "Unknown fusion"),
        ({"restarts": 0}, "restarts"),
    ],
)
def test_what_a_protocol_cannot_be_run_with(arguments, message):
    with pytest.raises(InputError, match=message):
        PROTOCOLS["paper"].cases(**arguments)


@pytest.mark.parametrize(
    ("name", "near"), [("papr", "paper"), ("whitebox", "white-box"), ("diagnostic", "diagnostics")]
)
def test_unknown_protocols(name, near):
    with pytest.raises(InputError, match=f"Unknown protocol. Did you mean {near}"):
        PROTOCOLS[name]


def test_attacks_by_name():
    assert make_attack("pgd", {"restarts": 3}, num_steps=5, decay_factor=1.0) == PGD(
        restarts=3, num_steps=5
    )
    assert make_attack("pgd", {"restarts": 3}, restarts=2, loss=None) == PGD(restarts=2)
    assert make_attack("fgsm", {}, restarts=9, num_steps=9) == FGSM()
    with pytest.raises(InputError, match="Did you mean pgd"):
        make_attack("pdg", {})


def config(seed, network="resnet20", epochs=200, train_examples=45_000, **changes):
    return run_config(
        seed=seed,
        recipe={"network": network, "epochs": epochs},
        dataset={"train_examples": train_examples},
        **changes,
    )


UNLIKE = {"a": config(1), "b": config(2, "wide-resnet"), "c": config(3, epochs=100)}
HARDENED = {"adversarial_training": {"epsilon": 0.03}}


def test_surrogates_that_are_unlike():
    protocol = PROTOCOLS["unlike-surrogates"]
    protocol.check_surrogates(UNLIKE)
    protocol.check_surrogates({**UNLIKE, "d": config(4)})
    fewer_examples = config(3, train_examples=1000)
    protocol.check_surrogates({**UNLIKE, "c": fewer_examples})


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ({}, "at least 3 surrogates .* Received: 0"),
        ({"a": UNLIKE["a"], "b": UNLIKE["b"]}, "at least 3 surrogates .* Received: 2"),
        ({**UNLIKE, "c": None}, "run folders .* Received: c"),
        ({**UNLIKE, "c": config(3, epochs=100, method="parl")}, "unprotected .* Received: c"),
        ({**UNLIKE, "c": config(3, epochs=9, arguments=HARDENED)}, "unprotected .* Received: c"),
        ({**UNLIKE, "c": config(1, epochs=100)}, "Received: seed {'a': 1, 'b': 2, 'c': 1}"),
        ({**UNLIKE, "b": config(2)}, "Received: network"),
        ({**UNLIKE, "c": config(3)}, "Received: examples seen"),
        # Twice as long on half as many examples is no other length.
        ({**UNLIKE, "c": config(3, epochs=400, train_examples=22_500)}, "Received: examples seen"),
    ],
)
def test_surrogates_that_are_refused(configs, message):
    with pytest.raises(InputError, match=message):
        PROTOCOLS["unlike-surrogates"].check_surrogates(configs)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("paper", 0, "Expected 1 surrogate for protocol paper. Received: 0"),
        ("paper", 2, "Expected 1 surrogate for protocol paper. Received: 2"),
        ("dverge", 1, "Expected at least 2 surrogates"),
        ("white-box", 1, "Expected 0 surrogates"),
        ("diagnostics", 0, "Expected at least 1 surrogate for"),
    ],
)
def test_other_protocols_count_surrogates(name, count, message):
    with pytest.raises(InputError, match=message):
        PROTOCOLS[name].check_surrogates({str(number): None for number in range(count)})


@pytest.mark.parametrize(
    ("name", "count"),
    [("paper", 1), ("dverge", 2), ("dverge", 5), ("white-box", 0), ("diagnostics", 3)],
)
def test_other_protocols_take_any_surrogates(name, count):
    # A bare Keras file and a protected run among them.
    configs = dict(list({"x": None, "y": config(0, method="parl"), **UNLIKE}.items())[:count])
    PROTOCOLS[name].check_surrogates(configs)


def test_listing_protocols_imports_no_tensorflow():
    code = (
        "import sys, parl_tf_tools\nparl_tf_tools.is_tool = True\n"
        "from parl_tf.protocols import PROTOCOLS\n"
        "print(*PROTOCOLS)\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == NAMES


def test_cases_are_told_apart_by_all_they_have():
    one = Case("white_box", PGD(), 0.1)
    assert one == Case("white_box", PGD(), 0.1)
    assert one != Case("black_box", PGD(), 0.1)
    assert one != Case("white_box", parl_tf.PGD(restarts=9), 0.1)
