"""parl-train, as a user runs it."""

import csv
import dataclasses
import inspect
import json

import numpy as np
import pytest
from harness.tools import TRAIN, run

import parl_tf
from parl_tf.cli import train
from parl_tf.cli.common import finite, positive_int
from parl_tf.cli.method_options import ADVERSARIAL, OPTIONS, method_options
from parl_tf.defences import METHODS
from parl_tf.errors import InputError
from parl_tf.results.files import load_records
from parl_tf.training import checkpoints
from parl_tf.training.recipes import FAST


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


@pytest.mark.slow
def test_a_diverged_training_leaves_no_model(tmp_path, capsys):
    given = ["--method", "unprotected", *TRAIN, "--learning-rate", "1e30", "--epochs", "3"]
    assert train.main([*given, "--out", str(tmp_path / "run")]) == 1
    assert "The loss became nan in epoch 1, step 2." in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.keras").exists()


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
