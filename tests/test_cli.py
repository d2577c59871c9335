"""The command line tools, as a user runs them."""

import csv
import dataclasses
import inspect
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from networks import plain_network

import parl_tf
from parl_tf.cli import attack, train
from parl_tf.defences import METHODS
from parl_tf.records import load_records

pytestmark = pytest.mark.xdist_group("command line")  # they share two runs

SCRIPTS = pathlib.Path(sys.executable).parent
TRAIN = [
    *("--dataset", "digits", "--members", "2", "--epochs", "1", "--train-examples", "64"),
    *("--batch-size", "32"),
]
ATTACK = [
    *("--num-examples", "12", "--num-steps", "2", "--restarts", "2", "--batch-size", "12"),
    *("--epsilon", "0.05", "0.1"),
]


def run(tool, *arguments, **options):
    """Runs a console script in a process of its own."""
    return subprocess.run(
        [SCRIPTS / tool, *map(str, arguments)], capture_output=True, text=True, **options
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An unprotected and a PARL run, and what training them printed."""
    folder = tmp_path_factory.mktemp("runs")
    printed = {}
    for name, options in {"unprotected": [], "parl": ["--num-layers", "2"]}.items():
        out = folder / name
        printed[name] = run(
            "parl-train", "--method", name, *options, *TRAIN, "--out", out, "--json"
        )
    return folder, printed


@pytest.mark.slow
def test_train_leaves_a_run_and_prints_one_document(runs):
    folder, printed = runs
    for name in ("unprotected", "parl"):
        assert printed[name].returncode == 0, printed[name].stderr
        document = json.loads(printed[name].stdout)
        config = json.loads((folder / name / "config.json").read_text())
        assert document["config"] == config
        assert document["run"] == str(folder / name)
        assert (config["method"], config["seed"], config["num_members"]) == (name, 0, 2)
        assert config["recipe"]["epochs"] == 1
        assert config["recipe"]["batch_size"] == 32
        assert config["dataset"]["train_examples"] == 64
        with open(folder / name / "history.csv", newline="") as file:
            (row,) = csv.DictReader(file)
        assert document["history"] == [{key: float(value) for key, value in row.items()}]
        for term in ("loss", "cross_entropy", "vote_accuracy", "val_vote_accuracy"):
            assert term in row
        assert (folder / name / "model.keras").exists()
        assert "Traceback" not in printed[name].stderr
    assert json.loads(printed["parl"].stdout)["config"]["arguments"]["num_layers"] == 2
    assert "penalty" in row


@pytest.mark.slow
def test_attack_black_box_and_white_box(runs, tmp_path):
    folder, _ = runs
    targets = ["--target", folder / "parl", "--target", folder / "unprotected" / "model.keras"]
    out = tmp_path / "results.json"
    black = run(
        "parl-attack",
        *targets,
        "--dataset",
        "digits",
        "--surrogate",
        folder / "unprotected",
        *ATTACK,
        "--out",
        out,
        "--json",
    )
    assert black.returncode == 0, black.stderr
    assert "warning: the surrogate and parl were trained from seed 0" in black.stderr
    assert json.loads(black.stdout) == json.loads(out.read_text())
    records = load_records(out)
    assert {record.threat_model for record in records} == {"clean", "black_box"}
    assert {record.surrogate for record in records} == {None, "unprotected"}
    assert {record.target for record in records} == {"parl", "model"}
    assert {record.attack for record in records} == {"clean", "fgsm", "bim", "mim", "pgd"}
    assert len(records) == 2 + 4 * 2 * 2
    assert all(record.num_examples == 12 for record in records)
    assert {len(record.correct) for record in records if record.attack == "pgd"} == {2}

    white = run("parl-attack", "--target", folder / "parl", *ATTACK, "--attack", "fgsm")
    assert white.returncode == 0, white.stderr
    assert "white box" in white.stdout
    assert "FGSM" in white.stdout
    assert "PGD" not in white.stdout

    again = run("parl-attack", "--target", folder / "parl", *ATTACK, "--out", out)
    assert again.returncode == 2
    assert "already exists" in again.stderr


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(runs, capsys):
    folder, _ = runs
    before = (folder / "parl" / "model.keras").read_bytes()
    assert train.main(["--method", "parl", *TRAIN, "--out", str(folder / "parl")]) == 2
    assert "already holds a finished run" in capsys.readouterr().err
    assert (folder / "parl" / "model.keras").read_bytes() == before


@pytest.mark.parametrize("tool", ["parl-train", "parl-attack"])
def test_help_does_not_wait_for_tensorflow(tool):
    code = (
        f"import sys; sys.argv = ['{tool}', '--help']\n"
        f"from parl_tf.cli.{tool.split('-')[1]} import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in ("--data-dir", "--seed", "--json"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--method", "parll"], 2, "Did you mean parl"),
        (["--dataset", "digit"], 2, "Did you mean digits"),
        (["--num-layers", "3"], 2, "--num-layers: of guardian and parl, not of unprotected"),
        (["--method", "gal", "--tap", "activation"], 2, "--tap: of guardian and parl, not of gal"),
        (["--method", "parl", "--entropy-weight", "1"], 2, "--entropy-weight: of adp, not of parl"),
        (["--method", "adp", "--coherence-weight", "1"], 2, "of gal, not of adp"),
        (["--method", "trs", "--distillation-steps", "1"], 2, "of dverge, not of trs"),
        (["--method", "dverge", "--smoothness-weight", "1"], 2, "of trs, not of dverge"),
        (["--method", "guardian", "--cosine", "signed"], 2, "--cosine: of parl, not of guardian"),
        (["--adversarial-steps", "3"], 2, "--adversarial-steps: without --adversarial-training"),
        (["--adversarial-training", "--adversarial-epsilon", "2"], 2, "epsilon in (0, 1]"),
        (["--adversarial-training", "--adversarial-against", "all"], 2, "Unknown against"),
        (["--recipe", "papers"], 2, "Did you mean paper"),
        (["--network", "resnet21"], 2, "Did you mean resnet20"),
        (["--method", "dverge", "--start-from", "nowhere"], 3, "No run folder or Keras file"),
        (["--method", "dverge", "--distillation-epsilon", "9"], 2, "epsilon in (0, 1]"),
        (["--method", "trs", "--first-radius", "2"], 2, "radius in [0, 1]"),
        (["--method", "parl", "--num-layers", "20"], 2, "num_layers from 1 to 19"),
        (["--members", "1"], 2, "at least two members"),
        (["--batch-size", "100"], 2, "batch_size from 1 to 64"),
        (["--learning-rate", "-1"], 2, "learning_rate"),
        (["--train-examples", "99999"], 2, "train_examples from 1 to"),
        (["--validation-fraction", "1"], 2, "validation_fraction"),
        (["--dataset", "cifar10", "--data-dir", "nowhere"], 3, "No prepared cifar10 in"),
    ],
)
def test_train_ends_in_a_message_and_leaves_nothing(tmp_path, capsys, arguments, status, message):
    out = tmp_path / "run"
    given = ["--method", "unprotected", *TRAIN, "--out", str(out), *arguments]
    assert train.main(given) == status
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not out.exists()


def test_every_option_of_a_method_reaches_its_class():
    classes = dict(METHODS)
    for methods, options in train._OPTIONS.items():
        for flag, keyword, kind, _ in options:
            for method in methods:
                parameters = inspect.signature(classes[method]).parameters
                assert keyword in parameters, flag
                default = parameters[keyword].default
                text = {train.finite: "0.5", train.positive_int: "3", str: "batch"}[kind]
                arguments = train.parser().parse_args(
                    ["--method", method, "--dataset", "digits", "--out", "run", flag, text]
                )
                (given,) = train._method_options(arguments).items()
                assert given == (keyword, type(default)(text)), flag


def test_adversarial_options_reach_their_class():
    flags = ["--adversarial-training", "--adversarial-epsilon", "0.1", "--adversarial-steps", "3"]
    arguments = train.parser().parse_args(
        ["--method", "parl", "--dataset", "digits", "--out", "run", *flags]
    )
    keywords = train._method_options(arguments)
    assert keywords == {"adversarial_training": {"epsilon": 0.1, "num_steps": 3}}
    fields = {field.name for field in dataclasses.fields(parl_tf.AdversarialTraining)}
    assert {keyword for _, keyword, *_ in train._ADVERSARIAL} <= fields


def test_help_lists_options_by_method(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    printed = capsys.readouterr().out
    for method in METHODS:
        assert method in printed
    for heading in ("options of adp:", "options of guardian and parl:", "options of dverge:"):
        assert heading in printed


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--method", "parl"],
        ["--epochs", "0"],
        ["--epochs", "many"],
        ["--seed", "-1"],
        ["--learning-rate", "nan"],
        ["--no-such-option"],
    ],
)
def test_train_usage_errors(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        train.main(arguments)
    assert end.value.code == 2
    assert "usage: parl-train" in capsys.readouterr().err


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network.keras"
    plain_network(0).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "bare Keras file"),
        (["--dataset", "digit"], 2, "Did you mean digits"),
        (["--dataset", "digits"], 2, "images of shape (8, 8, 3)"),
        (["--dataset", "cifar100", "--data-dir", "nowhere"], 3, "No prepared cifar100 in"),
        (["--dataset", "digits", "--attack", "pdg"], 2, "Did you mean pgd"),
        (["--dataset", "digits", "--epsilon", "-0.1"], 2, "epsilon in (0, 1]"),
        (["--dataset", "digits", "--epsilon", "8"], 2, "epsilon in (0, 1]"),
        (["--dataset", "digits", "--step-size", "0.05", "--epsilon", "0.03"], 2, "step_size"),
        (["--dataset", "digits", "--surrogate", "nowhere"], 3, "No run folder or Keras file"),
        (["--dataset", "digits", "--surrogate", __file__], 3, "not a Keras model"),
    ],
)
def test_attack_ends_in_a_message(capsys, tmp_path, network, arguments, status, message):
    out = tmp_path / "results.json"
    assert attack.main(["--target", network, "--out", str(out), *arguments]) == status
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not out.exists()


def test_targets_of_one_name_keep_their_paths_apart(tmp_path):
    names = attack._target_names(
        [str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run"), "other"]
    )
    assert list(names) == [str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run"), "other"]
    assert list(attack._target_names(["runs/w0.1", "runs/w0.5.keras"])) == ["w0.1", "w0.5"]


@pytest.mark.slow
def test_a_diverged_training_leaves_no_model(tmp_path, capsys):
    given = ["--method", "unprotected", *TRAIN, "--learning-rate", "1e30", "--epochs", "3"]
    assert train.main([*given, "--out", str(tmp_path / "run")]) == 1
    assert "not a finite number" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.keras").exists()


@pytest.mark.slow
def test_runs_of_another_data_set_are_refused(runs, tmp_path, capsys):
    folder, _ = runs
    other = tmp_path / "other"
    shutil.copytree(folder / "unprotected", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps({**config, "dataset": {**config["dataset"], "name": "cifar10"}})
    )
    given = ["--target", str(folder / "parl"), "--surrogate", str(other), *ATTACK]
    assert attack.main(given) == 2
    assert "trained on digits. Received: the surrogate of cifar10" in capsys.readouterr().err


@pytest.mark.real_data
@pytest.mark.slow
def test_training_and_attack_on_real_cifar10(cifar10_dir, tmp_path):
    out, results = tmp_path / "run", tmp_path / "results.json"
    trained = run(
        "parl-train",
        "--method",
        "parl",
        "--num-layers",
        "3",
        "--dataset",
        "cifar10",
        "--data-dir",
        cifar10_dir,
        "--members",
        "2",
        "--epochs",
        "1",
        "--batch-size",
        "32",
        "--train-examples",
        "2560",
        "--out",
        out,
        "--json",
    )
    assert trained.returncode == 0, trained.stderr
    (epoch,) = json.loads(trained.stdout)["history"]
    assert epoch["vote_accuracy"] > 0.2  # a tenth by chance
    attacked = run(
        "parl-attack",
        "--target",
        out,
        "--data-dir",
        cifar10_dir,
        "--num-examples",
        "100",
        "--attack",
        "fgsm",
        "bim",
        "--epsilon",
        "0.03",
        "--num-steps",
        "5",
        "--out",
        results,
    )
    assert attacked.returncode == 0, attacked.stderr
    clean, fgsm, bim = (record.accuracy for record in load_records(results))
    assert bim <= fgsm < clean or np.isclose(clean, 0.1, atol=0.05)


def test_scripts_of_the_repository_are_executable():
    root = pathlib.Path(__file__).parent.parent
    for name in ("bin/quickstart", "bin/test", "bin/parl-train", "bin/parl-attack", ".ci/run"):
        assert os.access(root / name, os.X_OK), name
