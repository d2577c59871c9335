"""parl-attack, as a user runs it."""

import dataclasses
import json
import os
import shutil

import pytest
from harness.tools import ATTACK, run

from parl_tf.cli import attack, diversity
from parl_tf.evaluation.judging import Judge
from parl_tf.reproduction.grid import plan, read_grid
from parl_tf.results.files import load_records


@pytest.mark.slow
def test_attack_from_two_surrogates(runs, tmp_path):
    folder, _ = runs
    other = shutil.copy(folder / "unprotected" / "model.keras", tmp_path / "other.keras")
    out = tmp_path / "results.json"
    done = run(
        "parl-attack",
        *("--target", folder / "parl", "--target", folder / "unprotected" / "model.keras"),
        *("--surrogate", folder / "unprotected", "--surrogate", other),
        *("--dataset", "digits", *ATTACK, "--attack", "fgsm", "pgd", "--out", out, "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert "warning: unprotected and parl were trained with seed 0" in done.stderr
    document, records = json.loads(done.stdout), load_records(out)
    assert document["records"] == json.loads(out.read_text())["records"]
    assert document["finished"] is True
    assert {record.threat_model for record in records} == {"clean", "black_box"}
    names = {r.surrogate.name for r in records if r.attack != "clean"}
    assert names == {"unprotected", "other"}
    assert {record.target.name for record in records} == {"parl", "model"}
    assert {record.attack for record in records} == {"clean", "fgsm", "pgd"}
    assert len(records) == 2 + 2 * 2 * 2 * 2
    assert {record.num_examples for record in records} == {12}
    assert {len(record.correct) for record in records if record.attack == "pgd"} == {2}
    assert {record.protocol for record in records} == {"custom"}
    configs = {record.target.name: record.target.config for record in records}
    assert configs["parl"].method == "parl"
    assert configs["model"] is None
    for record in records:
        assert record.data["name"] == "digits"
        assert record.data["sample_seed"] == 0
    # The two surrogates are the same network.
    by_surrogate = {}
    for record in records:
        if record.surrogate:
            key = (record.target.name, record.attack, record.epsilon)
            by_surrogate.setdefault(key, []).append(record.correct)
    assert all(first == second for first, second in by_surrogate.values())


def attacked(*arguments):
    """A quick evaluation in this process: its exit status."""
    quick = ["--num-examples", "9", "--batch-size", "4", "--attack", "fgsm", "uniform-noise"]
    return attack.main(
        [*map(str, arguments), *quick, "--restarts", "2", "--epsilon", "0.05", "0.1"]
    )


def timeless(path):
    """The records of a results file without their times."""
    return [dataclasses.replace(record, seconds=0.0) for record in load_records(path)]


@pytest.mark.slow
def test_an_interrupted_attack_goes_on_with_the_same_out(runs, tmp_path, capsys, monkeypatch):
    folder, _ = runs
    out = tmp_path / "results.json"
    given = ["--target", folder / "unprotected", "--seed", "1"]
    judge, calls = Judge.__call__, []

    def interrupt(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3 * (1 + 2 + 1) + 2:  # clean, FGSM twice and noise once; then in between
            raise KeyboardInterrupt
        return judge(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "__call__", interrupt)
        assert attacked(*given, "--out", out) == 130
    assert "interrupted" in capsys.readouterr().err
    assert [len(record.correct) for record in load_records(out)] == [1, 1, 1, 1]
    calls.clear()
    monkeypatch.setattr(Judge, "__call__", lambda *a: calls.append(a) or judge(*a))
    assert attacked(*given, "--out", out) == 0
    assert len(calls) == 3 * 3
    assert "white box" in capsys.readouterr().out
    assert attacked(*given, "--out", tmp_path / "whole.json") == 0
    assert timeless(out) == timeless(tmp_path / "whole.json")
    # Finished, it is only shown again; another one is refused.
    before, calls = out.read_bytes(), []
    assert attacked(*given, "--out", out, "--json") == 0
    assert not calls
    printed = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(printed)["records"] == json.loads(before)["records"]
    for change, difference in ((["--seed", "2"], "data"), (["--loss", "margin"], "cases")):
        assert attacked(*given, *change, "--out", out) == 2
        error = capsys.readouterr().err
        assert f"holds another evaluation: its {difference} is" in error
        assert "Traceback" not in error
    (tmp_path / "notes.json").write_text("mine")
    assert attacked(*given, "--out", tmp_path / "notes.json") == 3
    assert (tmp_path / "notes.json").read_text() == "mine"
    assert out.read_bytes() == before


@pytest.mark.slow
def test_saved_examples_are_shown_to_another_target(runs, tmp_path, capsys):
    folder, _ = runs
    saved, crafted, shown = (tmp_path / name for name in ("examples", "1.json", "2.json"))
    surrogate = ["--surrogate", folder / "unprotected"]
    given = ["--target", folder / "parl", *surrogate, "--seed", "4"]
    assert attacked(*given, "--save-examples", saved, "--out", crafted) == 0
    bare = ["--target", shutil.copy(folder / "parl" / "model.keras", tmp_path / "bare.keras")]
    seen = [*bare, "--dataset", "digits", "--examples", saved, "--out", shown]
    capsys.readouterr()
    assert attack.main([*map(str, seen), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] is True
    before, after = load_records(crafted), load_records(shown)
    assert [record.correct for record in after] == [record.correct for record in before]
    assert {record.protocol for record in after} == {"saved-examples"}
    assert {record.seed for record in after} == {4}
    assert {record.data["num_examples"] for record in after} == {9}
    # Its own examples are white box.
    itself = ["--target", folder / "unprotected", "--examples", saved]
    assert attack.main(list(map(str, itself))) == 0
    assert "white box" in capsys.readouterr().out
    for option in (
        *(["--attack", "fgsm"], ["--epsilon", "0.1"], ["--protocol", "paper"]),
        *(["--save-examples", str(tmp_path)], ["--num-steps", "3"], list(map(str, surrogate))),
    ):
        assert attack.main([*map(str, seen), *option]) == 2
        assert f"Received: {option[0]}" in capsys.readouterr().err
    (file, *_) = saved.glob("*.npy")
    file.write_bytes(file.read_bytes()[:-1])
    assert attack.main(list(map(str, itself))) == 3
    assert "was changed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_protocol_is_run_and_a_changed_one_says_so(runs, tmp_path, capsys):
    folder, _ = runs
    out = tmp_path / "results.json"
    given = ["--target", folder / "unprotected", "--protocol", "white-box", "--out", out]
    few = ["--attack", "fgsm", "--epsilon", "0.05", "--num-examples", "9", "--num-steps", "2"]
    assert attack.main(list(map(str, [*given, *few]))) == 0
    printed = capsys.readouterr()
    assert "warning: with other values of num_steps, epsilon, attack" in printed.err
    assert "not the whole protocol white-box" in printed.err
    records = load_records(out)
    assert [(r.attack, r.epsilon, r.protocol) for r in records] == [
        ("clean", 0.0, "white-box"),
        ("fgsm", 0.05, "white-box"),
    ]


@pytest.mark.slow
def test_diagnostics_print_their_checks(runs, tmp_path, capsys):
    folder, _ = runs
    given = ["--target", folder / "parl", "--surrogate", folder / "unprotected"]
    few = ["--attack", "fgsm", "--epsilon", "0.05", "--num-examples", "9"]
    assert attack.main(list(map(str, [*given, "--protocol", "diagnostics", *few]))) == 0
    printed = capsys.readouterr().out
    assert "Does it only mask gradients?" in printed
    assert "gradients do not vanish" in printed
    assert "not run" in printed


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "bare Keras file"),
        (["--dataset", "digit"], 2, "Did you mean digits"),
        (["--dataset", "digits"], 2, "images of shape (8, 8, 3)"),
        (["--dataset", "cifar100", "--data-dir", "nowhere"], 3, "No prepared cifar100 in"),
        (["--dataset", "digits", "--attack", "pdg"], 2, "Did you mean pgd"),
        (["--dataset", "digits", "--epsilon", "-0.1"], 2, "epsilon in (0, 1]"),
        (["--dataset", "digits", "--epsilon", "8"], 2, "levels of 0 to 255 by 255"),
        (["--dataset", "digits", "--epsilon", "300/255"], 2, "epsilon in (0, 1]"),
        (["--dataset", "digits", "--step-size", "0.05", "--epsilon", "0.03"], 2, "step_size"),
        (["--dataset", "digits", "--loss", "margins"], 2, "Did you mean margin"),
        (["--dataset", "digits", "--fusion", "logit"], 2, "Did you mean logits"),
        (["--dataset", "digits", "--surrogate", "nowhere"], 3, "No run folder or Keras file"),
        (["--dataset", "digits", "--surrogate", __file__], 3, "not a Keras model"),
        (["--protocol", "papers"], 2, "Unknown protocol. Did you mean paper"),
        (["--protocol", "paper"], 2, "Expected 1 surrogate for protocol paper. Received: 0"),
        (["--protocol", "unlike-surrogates"], 2, "at least 3 surrogates"),
        (["--protocol", "paper", "--attack", "square"], 2, "attack of protocol paper"),
        (["--protocol", "paper", "--epsilon", "0"], 2, "epsilon in (0, 1]"),
        (["--examples", "nowhere", "--dataset", "digits"], 3, "holds no adversarial examples"),
        (["--examples", "nowhere", "--attack", "fgsm"], 2, "Received: --attack"),
    ],
)
def test_attack_ends_in_a_message(capsys, tmp_path, network, arguments, status, message):
    out = tmp_path / "results.json"
    assert attack.main(["--target", network, "--out", str(out), *arguments]) == status
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not out.exists()


def test_strengths_as_fractions_on_the_command_line_and_in_a_grid(tmp_path):
    options = "--attack pgd --epsilon 8/255 2/255 --step-size 1/255"
    (tmp_path / "grid.toml").write_text(
        'datasets = ["digits"]\nseeds = [0]\ntrain = "--epochs 1"\n[settings]\nplain = ""\n'
        '[surrogates]\n[diversity]\noptions = "--epsilon 4/255"\n'
        f'[attacks.own]\noptions = "{options}"'
    )
    jobs = plan(read_grid(tmp_path / "grid.toml"), tmp_path)
    (in_grid,) = (job.arguments for job in jobs if job.tool == "attack")
    for given in (in_grid, ["--target", "run", *options.split()]):
        cases = attack.cases_of(attack.parser().parse_args(given))
        assert [case.epsilon for case in cases] == [2 / 255, 8 / 255]
        assert {case.attack.step_size for case in cases} == {1 / 255}
    (measured,) = (job.arguments for job in jobs if job.tool == "diversity")
    assert diversity.parser().parse_args(measured).epsilon == 4 / 255


@pytest.mark.parametrize("text", ["8/0", "nan", "1e999", "8/255/2", "eight"])
def test_a_strength_that_is_no_number_is_a_usage_error(capsys, text):
    with pytest.raises(SystemExit) as end:
        attack.main(["--target", "run", "--epsilon", "1/255", text])
    assert end.value.code == 2
    error = f"expected a finite number or a fraction such as 8/255, received '{text}'"
    assert error in capsys.readouterr().err


def test_a_target_is_no_surrogate(capsys, network):
    for path in (network, os.path.relpath(network)):
        assert attack.main(["--target", network, "--surrogate", path]) == 2
        assert "surrogates that are not targets" in capsys.readouterr().err


def test_out_that_cannot_be_written_is_refused_before_anything_is_loaded(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file" / "results.json"):
        assert attack.main(["--target", "nowhere", "--out", str(out)]) == 2
        assert "cannot be written" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_targets_of_one_name_keep_their_paths_apart(tmp_path):
    first, second = str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run")
    assert attack._names([first, second, "other"], []) == {
        first: first,
        second: second,
        "other": "other",
    }
    assert list(attack._names([first, "other"], [second])) == [first, "other", second]
    assert list(attack._names(["runs/w0.1", "runs/w0.5.keras"], [])) == ["w0.1", "w0.5"]
    assert list(attack._names([first, first], ["other"])) == ["run", "other"]


@pytest.mark.slow
def test_runs_of_another_data_set_are_refused(runs, tmp_path, capsys):
    folder, _ = runs
    other = tmp_path / "other"
    shutil.copytree(folder / "unprotected", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps({**config, "dataset": {**config["dataset"], "name": "cifar10"}})
    )
    given = ["--target", str(folder / "parl"), "--surrogate", str(other)]
    assert attack.main(given) == 2
    assert "trained on digits. Received: other, on cifar10" in capsys.readouterr().err
