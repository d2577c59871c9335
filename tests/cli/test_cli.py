"""The command line tools, as a user runs them."""

import csv
import dataclasses
import fcntl
import inspect
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from harness.networks import plain_network

import parl_tf
from parl_tf.cli import attack, diversity, report, train
from parl_tf.cli.common import finite, positive_int
from parl_tf.cli.method_options import ADVERSARIAL, OPTIONS, method_options
from parl_tf.defences import METHODS
from parl_tf.errors import InputError
from parl_tf.evaluation.judging import Judge
from parl_tf.reproduction.grid import plan, read_grid
from parl_tf.results.diversity import load_diversity
from parl_tf.results.files import load_records
from parl_tf.training import checkpoints
from parl_tf.training.recipes import FAST

SCRIPTS = pathlib.Path(sys.executable).parent
TRAIN = [
    *("--dataset", "digits", "--members", "2", "--epochs", "1", "--train-examples", "64"),
    *("--batch-size", "32", "--network", "resnet8"),
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


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """An unprotected and a PARL run, and what training them printed.

    They are trained once for all of xdist's processes: under pytest 9.2 it ignores its groups.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder, done = folder / "runs", folder / "runs.json"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            printed = {}
            for name, options in {"unprotected": [], "parl": ["--num-layers", "2"]}.items():
                given = ["--method", name, *options, *TRAIN, "--out", folder / name, "--json"]
                trained = run("parl-train", *given)
                printed[name] = [trained.returncode, trained.stdout, trained.stderr]
            done.write_text(json.dumps(printed))
    printed = json.loads(done.read_text())
    return folder, {
        name: subprocess.CompletedProcess(name, *entry) for name, entry in printed.items()
    }


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


@pytest.mark.slow
def test_diversity_of_a_run(runs, tmp_path, capsys):
    folder, _ = runs
    out = tmp_path / "new" / "diversity.json"
    given = ["--target", folder / "unprotected", "--out", out, "--num-examples", "10"]
    few = ["--num-steps", "1", "--batch-size", "10", "--epsilon", "0.05", "--json"]
    assert diversity.main(list(map(str, [*given, *few]))) == 0
    printed = capsys.readouterr()
    record = load_diversity(out)
    assert json.loads(printed.out) == record.to_json()
    assert "Diversity of unprotected on 10 test images" in printed.err
    assert "1 and 2" in printed.err
    assert record.target.config.method == "unprotected"
    assert np.shape(record.cka) == (7, 1)
    assert record.data["name"] == "digits"
    assert (record.attack["name"], record.attack["epsilon"]) == ("pgd", 0.05)
    assert diversity.main(list(map(str, given))) == 2
    assert "already exists" in capsys.readouterr().err
    assert load_diversity(out) == record


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(runs, capsys):
    folder, _ = runs
    before = (folder / "parl" / "model.keras").read_bytes()
    assert train.main(["--method", "parl", *TRAIN, "--out", str(folder / "parl")]) == 2
    assert "already holds a finished run" in capsys.readouterr().err
    assert (folder / "parl" / "model.keras").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "epochs", "start_epochs", "validation"),
    [
        (["--method", "parl"], FAST.epochs, None, 0),
        (["--method", "trs", "--epochs", "2"], 2, FAST.epochs, 0),
        (["--method", "adp", "--adversarial-training"], 4, FAST.epochs, 0),
        (["--method", "gal", "--validation-fraction", "0.2"], FAST.epochs, None, 259),
        (["--method", "gal", "--recipe", "paper"], 200, None, 130),
    ],
)
def test_fast_holds_all_images_unless_told_otherwise(
    tmp_path, monkeypatch, options, epochs, start_epochs, validation
):
    seen = {}

    def stop(method, dataset, out, *, recipe, **others):
        seen.update(dataset=dataset, recipe=recipe)
        raise InputError("seen enough")

    monkeypatch.setattr("parl_tf.training.fitting.train", stop)
    given = ["--dataset", "digits", "--recipe", "fast", *options, "--out", str(tmp_path / "run")]
    assert train.main(given) == 2
    assert (seen["recipe"].epochs, seen["recipe"].start_epochs) == (epochs, start_epochs)
    assert len(seen["dataset"].validation) == validation
    assert len(seen["dataset"].train) == 1297 - validation


MOVING_BY_MOVING = ("--distillation-moves-statistics", "--distillation-batch-norm", "moving")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--method", "parll"], 2, "Did you mean parl"),
        (["--dataset", "digit"], 2, "Did you mean digits"),
        (
            ["--num-layers", "3"],
            2,
            "--num-layers applies only to guardian and parl. Received: --method unprotected",
        ),
        (["--method", "gal", "--tap", "activation"], 2, "--tap applies only to guardian and parl"),
        (["--method", "parl", "--entropy-weight", "1"], 2, "--entropy-weight applies only to adp"),
        (["--method", "adp", "--coherence-weight", "1"], 2, "applies only to gal"),
        (["--method", "trs", "--distillation-steps", "1"], 2, "applies only to dverge"),
        (["--method", "dverge", "--smoothness-weight", "1"], 2, "applies only to trs"),
        (["--method", "guardian", "--cosine", "signed"], 2, "--cosine applies only to parl"),
        (["--method", "parl", "--move-half"], 2, "--move-half applies only to trs"),
        (["--method", "trs", "--smoothness-scale", "batches"], 2, "Did you mean batch"),
        (["--method", "parl", "--stem-tap", "activation"], 2, "applies only to guardian"),
        (["--method", "guardian", "--norms", "none"], 2, "Unknown norms"),
        (["--method", "dverge", *MOVING_BY_MOVING], 2, "only with distillation_batch_norm='batch'"),
        (["--adversarial-steps", "3"], 2, "--adversarial-steps applies only with"),
        (["--adversarial-training", "--adversarial-epsilon", "2"], 2, "epsilon in (0, 1]"),
        (["--adversarial-training", "--adversarial-against", "all"], 2, "Unknown against"),
        (["--recipe", "papers"], 2, "Did you mean paper"),
        (["--network", "resnet21"], 2, "Did you mean resnet20"),
        (["--augmentation", "shift"], 2, "Did you mean shifts"),
        (["--augmentation", "black-crops-33"], 2, "at most 32 pixels"),
        (["--method", "dverge", "--start-from", "nowhere"], 3, "No run folder or Keras file"),
        (["--method", "dverge", "--distillation-epsilon", "9"], 2, "epsilon in (0, 1]"),
        (["--method", "trs", "--first-radius", "2"], 2, "radius in [0, 1]"),
        (["--method", "parl", "--num-layers", "20"], 2, "num_layers from 1 to 7"),
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
    for methods, options in OPTIONS.items():
        for flag, keyword, kind, _ in options:
            for method in methods:
                parameters = inspect.signature(classes[method]).parameters
                assert keyword in parameters, flag
                default = parameters[keyword].default
                text = {finite: ["0.5"], positive_int: ["3"], str: ["batch"]}
                value = text.get(kind, [])  # none for what is only switched on
                arguments = train.parser().parse_args(
                    ["--method", method, "--dataset", "digits", "--out", "run", flag, *value]
                )
                (given,) = method_options(arguments).items()
                assert given == (keyword, type(default)(*value) if value else True), flag


def test_adversarial_options_reach_their_class():
    flags = ["--adversarial-training", "--adversarial-epsilon", "0.1", "--adversarial-steps", "3"]
    arguments = train.parser().parse_args(
        ["--method", "parl", "--dataset", "digits", "--out", "run", *flags]
    )
    keywords = method_options(arguments)
    assert keywords == {"adversarial_training": {"epsilon": 0.1, "num_steps": 3}}
    fields = {field.name for field in dataclasses.fields(parl_tf.AdversarialTraining)}
    assert {keyword for _, keyword, *_ in ADVERSARIAL} <= fields


@pytest.mark.parametrize(
    ("method", "flags", "keywords"),
    [
        ("trs", [], {}),
        ("trs", ["--move-half"], {"move_half": True}),
        ("trs", ["--smoothness-scale", "example"], {"smoothness_scale": "example"}),
        ("guardian", ["--stem-tap", "convolution"], {"stem_tap": "convolution"}),
        ("guardian", ["--norms", "differentiated"], {"norms": "differentiated"}),
        ("guardian", ["--correlation", "pearson"], {"correlation": "pearson"}),
        (
            "dverge",
            ["--distillation-moves-statistics"],
            {"distillation_moves_statistics": True},
        ),
    ],
)
def test_departures_from_the_authors_code_are_options(method, flags, keywords):
    given = ["--method", method, "--dataset", "digits", "--out", "run", *flags]
    assert method_options(train.parser().parse_args(given)) == keywords
    parameters = inspect.signature(METHODS[method]).parameters
    assert set(keywords) <= set(parameters)


def test_every_number_may_be_a_fraction():
    for tool in (train, attack, diversity, report):
        kinds = {action.dest: action.type for action in tool.parser()._actions}
        assert not {float, int} & set(kinds.values())  # these take no fractions
        assert finite in kinds.values()
    arguments = train.parser().parse_args(
        [
            *("--adversarial-training", "--adversarial-epsilon", "4/255"),
            *("--adversarial-step-size", "1/255", "--learning-rate", "1/1000"),
            *("--method", "unprotected", "--dataset", "digits", "--out", "run"),
        ]
    )
    assert method_options(arguments) == {
        "adversarial_training": {"epsilon": 4 / 255, "step_size": 1 / 255}
    }
    assert arguments.learning_rate == 1e-3


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


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "bare Keras file"),
        (["--dataset", "digits"], 2, "Expected an Ensemble"),
        (["--target", "nowhere"], 3, "No run folder or Keras file"),
        (["--dataset", "digit"], 2, "Did you mean digits"),
        (["--dataset", "digits", "--out", __file__], 2, "already exists"),
        (["--dataset", "digits", "--out", f"{__file__}/new.json"], 2, "cannot be written"),
    ],
)
def test_diversity_ends_in_a_message(capsys, tmp_path, network, arguments, status, message):
    out = tmp_path / "diversity.json"
    given = ["--target", network, "--out", str(out), *arguments]
    assert diversity.main(given) == status
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not out.exists()


@pytest.mark.slow
def test_a_diverged_training_leaves_no_model(tmp_path, capsys):
    given = ["--method", "unprotected", *TRAIN, "--learning-rate", "1e30", "--epochs", "3"]
    assert train.main([*given, "--out", str(tmp_path / "run")]) == 1
    assert "The loss became nan in epoch 1, step 2." in capsys.readouterr().err
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
    given = ["--target", str(folder / "parl"), "--surrogate", str(other)]
    assert attack.main(given) == 2
    assert "trained on digits. Received: other, on cifar10" in capsys.readouterr().err


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
        "--network",
        "resnet8",
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


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (signal.SIGTERM, 143, "terminated"),
        pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_tool_in_order(number, status, message):
    code = (
        "import signal, sys, time\n"
        "from parl_tf.cli.common import run\n"
        # What a shell starts in the background ignores it, and so do its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def body():\n"
        "    try:\n"
        "        print('at work', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('put away', flush=True)\n"
        "sys.exit(run(body, print_json=False, tensorflow=False))\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert process.stdout.readline() == "at work\n"
    process.send_signal(number)
    printed, error = process.communicate()
    assert (process.returncode, printed) == (status, "put away\n")
    assert message in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_resume_continues_from_the_folder_alone(tmp_path, capsys):
    given = ["--method", "parl", "--num-layers", "1", *TRAIN, "--epochs", "2", "--seed", "5"]
    folder = tmp_path / "run"
    save = checkpoints.save_checkpoint

    def interrupted(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "save_checkpoint", interrupted)
        assert train.main([*given, "--out", str(folder)]) == 130
    assert not (folder / "model.keras").exists()
    resumed = ["--resume", str(folder), "--tensorboard", "--json"]
    capsys.readouterr()
    assert train.main(resumed) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert [row["epoch"] for row in document["history"]] == [0, 1]
    assert "1 of 2 epochs" in printed.err
    assert list((folder / "tensorboard").glob("**/events.out.*"))
    assert train.main(resumed) == 2
    assert "is finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--resume", "nowhere"], 3, "not a run folder"),
        (["--resume", "x", "--epochs", "3", "--batch-size", "9"], 2, "--epochs, --batch-size"),
        (
            ["--resume", "x", "--deterministic"],
            2,
            "--resume cannot be combined with --deterministic",
        ),
        (["--resume", "x", "--seed", "0"], 2, "--resume cannot be combined with --seed"),
        (["--method", "parl", "--dataset", "digits"], 2, "required: --out"),
        ([], 2, "required: --method, --dataset, --out"),
    ],
)
def test_resume_ends_in_a_message(arguments, status, message, capsys):
    try:
        ended = train.main(arguments)
    except SystemExit as end:
        ended = end.code
    assert ended == status
    assert message in capsys.readouterr().err


def test_scripts_of_the_repository_are_executable():
    root = pathlib.Path(__file__).parents[2]
    for name in (
        "bin/quickstart",
        "bin/test",
        "bin/parl-train",
        "bin/parl-attack",
        "bin/parl-diversity",
        ".ci/run",
    ):
        assert os.access(root / name, os.X_OK), name
