import functools
import json
import logging
import shutil
import zipfile

import keras
import numpy as np
import pytest
from harness.networks import pooled_network
from harness.run_configs import run_config

import parl_tf
from parl_tf.errors import DivergedError, ExistingRunError, InputError, MissingFileError
from parl_tf.files import sha256_of
from parl_tf.training.building import build_ensemble, optimizer_of
from parl_tf.training.checkpoints import Checkpoints
from parl_tf.training.config import Start
from parl_tf.training.fitting import train
from parl_tf.training.folders import (
    begin_run,
    find_checkpoints,
    finish_run,
    load_model,
    read_config,
    read_history,
    save_checkpoint,
)
from parl_tf.training.locks import locked
from parl_tf.training.recipe import Recipe
from parl_tf.training.recipes import recipe_for
from parl_tf.training.resuming import resume
from parl_tf.training.warm_start import may_have_seen_validation

# Validation images, and so the diagnosed ones, are one batch, which is traced once.
DIGITS = parl_tf.load_dataset("digits", train_examples=64, validation_fraction=0.05)


def test_no_two_seeds_share_a_member():
    options = {"recipe": Recipe(network="resnet8"), "num_members": 3}
    ensembles = [build_ensemble("unprotected", DIGITS, seed=seed, **options) for seed in (0, 1, 2)]
    stems = [m.get_weights()[0].tobytes() for ensemble in ensembles for m in ensemble.members]
    assert len(set(stems)) == 9
    again = build_ensemble("parl", DIGITS, seed=1, num_layers=3, **options)
    assert [m.get_weights()[0].tobytes() for m in again.members] == stems[3:6]


def test_members_normalise_with_the_statistics_of_the_data_set():
    member = build_ensemble("unprotected", DIGITS, num_members=2).members[0]
    assert any(type(layer).__name__ == "Normalization" for layer in member.layers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "parll"}, "Unknown method"),
        ({"num_members": 1}, "at least two members"),
        ({"recipe": Recipe(batch_size=65)}, "batch_size from 1 to 64"),
        ({"method": "parl", "arguments": {"num_layers": 20}}, "num_layers from 1 to 19"),
    ],
)
def test_bad_arguments_leave_nothing_behind(tmp_path, changes, message):
    arguments = {"method": "unprotected", "recipe": Recipe(batch_size=32), **changes}
    with pytest.raises(InputError, match=message):
        train(arguments.pop("method"), DIGITS, tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def small_networks(monkeypatch):
    """Networks of seven narrow convolutions under every name, and the names asked for."""
    asked = []

    class Names(dict):
        def __getitem__(self, name):
            asked.append(name)
            return pooled_network

    monkeypatch.setattr("parl_tf.training.building.NETWORKS", Names())
    return asked


@pytest.fixture
def tiny_networks(monkeypatch):
    """Networks of one convolution under every name, which one is enough to diagnose."""

    class Names(dict):
        def __getitem__(self, name):
            return functools.partial(pooled_network, num_convolutions=1)

    monkeypatch.setattr("parl_tf.training.building.NETWORKS", Names())
    diagnostics = functools.partial(parl_tf.DiversityDiagnostics, num_layers=1)
    monkeypatch.setattr("parl_tf.training.fitting.DiversityDiagnostics", diagnostics)


SHORT = {"epochs": 2, "batch_size": 16}


@pytest.mark.slow
def test_run_resolves_its_recipe_and_reports_diversity(tmp_path, small_networks):
    out = tmp_path / "run"
    recipe = recipe_for("gal", kernel_penalty=None, **SHORT)
    train("gal", DIGITS, out, recipe=recipe, num_members=2, seed=3, verbose=0)
    assert set(small_networks) == {"resnet20-leaky-relu"}
    config = read_config(out)
    assert config.recipe.network == "resnet20-leaky-relu"
    assert config.recipe.decay_at == (0.5, 0.75)
    assert config.recipe.epochs == 2
    assert config.recipe.kernel_penalty == 0.125  # the network's own
    assert config.arguments["seed"] == config.seed == 3
    assert config.start_from is None
    history = read_history(out)
    assert len(history) == 2
    for row in history:
        assert -1 <= row["gradient_cosine"] <= 1
        assert -3.5 <= row["parl_penalty"] <= 7  # two members, seven layers


@pytest.mark.slow
def test_diversity_is_measured_without_validation_images_too(tmp_path, small_networks):
    dataset = parl_tf.load_dataset("digits", train_examples=32, validation_fraction=0)
    recipe = Recipe(epochs=1, batch_size=16)
    train("unprotected", dataset, tmp_path / "run", recipe=recipe, num_members=2, verbose=0)
    (row,) = read_history(tmp_path / "run")
    assert row["parl_penalty"] is not None
    assert row["val_loss"] is None


@pytest.mark.slow
def test_dverge_trains_its_start_first_and_says_so(tmp_path, tiny_networks, caplog):
    out = tmp_path / "run"
    recipe = recipe_for("dverge", **SHORT)
    with caplog.at_level(logging.INFO, logger="parl_tf"):
        train("dverge", DIGITS, out, recipe=recipe, num_members=2, seed=1, verbose=0)
    assert "training one first" in caplog.text
    config, start = read_config(out), read_config(out / "start")
    assert config.start_from == Start(run="start")
    assert (start.method, start.seed, start.recipe) == ("unprotected", 1, config.recipe)
    layers = [row["layer"] for row in read_history(out)]
    ensemble, _ = load_model(out)
    assert layers == [ensemble.layer_of_epoch(epoch) for epoch in range(2)]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("unprotected", {"adversarial_training": {"num_steps": 1}}),
        pytest.param("dverge", {"num_steps": 1}, marks=pytest.mark.slow),
        pytest.param("trs", {}, marks=pytest.mark.slow),
    ],
)
def test_a_recipe_with_a_start_adds_its_epochs_to_an_unprotected_ensemble(
    tmp_path, tiny_networks, monkeypatch, method, arguments
):
    """Also after an interruption in the start, and one in the run itself."""
    fast = Recipe(epochs=3, batch_size=16, learning_rate=0.01, warm_up=0.5, annealing="linear")
    monkeypatch.setattr("parl_tf.training.recipes.FAST", fast)
    given = {"recipe": "fast", "num_members": 2, "arguments": arguments, "verbose": 0}
    whole, out = tmp_path / "whole", tmp_path / "run"
    uninterrupted = train(method, DIGITS, whole, **given)

    def save_and_stop(folder, model, epochs):
        save_checkpoint(folder, model, epochs)
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr("parl_tf.training.checkpoints.save_checkpoint", save_and_stop)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                train(method, DIGITS, out, **given)
    assert sorted(find_checkpoints(out / "start")) == [1, 2]
    with pytest.raises(KeyboardInterrupt):
        train(method, DIGITS, out, callbacks=[InterruptedIn(2)], **given)
    assert sorted(find_checkpoints(out)) == [1, 2]
    ensemble = resume(out, verbose=0)
    assert_equal_runs(out, ensemble, whole, uninterrupted)
    config, start = read_config(out), read_config(out / "start")
    assert config == read_config(whole)
    assert config.start_from == Start(run="start")
    assert (config.recipe.epochs, config.recipe.start_epochs) == (4, 3)
    assert start.start_from is None
    assert (start.method, start.recipe) == ("unprotected", config.recipe.of_start)
    assert (start.recipe.epochs, start.recipe.start_epochs) == (3, None)
    assert [len(read_history(folder)) for folder in (out / "start", out)] == [3, 4]


@pytest.mark.parametrize(
    ("fraction", "seed", "seen"),
    [(0.05, 0, False), (0.1, 0, False), (0.02, 0, True), (0.1, 1, True), (0, 0, True)],
)
def test_a_start_that_may_have_seen_validation_images_is_noticed(tmp_path, fraction, seed, seen):
    other = parl_tf.load_dataset("digits", validation_fraction=fraction, seed=seed)
    really = {image.tobytes() for image in other.train.images}
    assert seen == any(image.tobytes() in really for image in DIGITS.validation.images)
    start = begin_run(
        tmp_path / "start",
        run_config(
            dataset={
                "name": "digits",
                "fingerprint": other.fingerprint,
                "train_examples": len(other.train),
                "validation_examples": len(other.validation),
                "seed": seed,
            }
        ),
    )
    assert may_have_seen_validation(start, DIGITS) == seen
    assert may_have_seen_validation(tmp_path / "start.keras", DIGITS)
    without = parl_tf.load_dataset("digits", validation_fraction=0)
    assert not may_have_seen_validation(start, without)


@pytest.mark.slow
def test_dverge_begins_from_the_run_that_is_named(tmp_path, tiny_networks, caplog):
    start, out = tmp_path / "start", tmp_path / "run"
    recipe = Recipe(epochs=1, batch_size=16)
    others = parl_tf.load_dataset("digits", train_examples=64, validation_fraction=0.05, seed=1)
    began = train("unprotected", others, start, recipe=recipe, num_members=2, seed=1, verbose=0)
    weights = [w for m in began.members for w in m.get_weights()]
    seen = []

    class First(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.extend(w for m in self.model.members for w in m.get_weights())

    train(
        "dverge",
        DIGITS,
        out,
        recipe=recipe,
        num_members=2,
        seed=2,
        start_from=start,
        callbacks=[First()],
        verbose=0,
    )
    for found, expected in zip(seen, weights, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert "seen validation images of this run" in caplog.text
    named = read_config(out).start_from
    assert named == Start(run=str(start), method="unprotected", seed=1)
    assert not (out / "start").exists()


@pytest.mark.slow
def test_a_start_of_another_training_is_not_taken_for_ones_own(tmp_path, tiny_networks):
    out = tmp_path / "run"
    options = {"recipe": Recipe(epochs=1, batch_size=16), "num_members": 2, "verbose": 0}
    train("dverge", DIGITS, out, seed=1, **options)
    (out / "model.keras").unlink()  # as if it had been interrupted
    config = (out / "config.json").read_bytes()
    with pytest.raises(ExistingRunError, match="another training: its seed"):
        train("dverge", DIGITS, out, seed=2, **options)
    other = parl_tf.load_dataset("digits", train_examples=96)
    with pytest.raises(ExistingRunError, match="another training: its dataset"):
        train("dverge", other, out, seed=1, **options)
    assert (out / "config.json").read_bytes() == config
    assert (out / "history.csv").exists()
    before = (out / "start" / "model.keras").stat().st_mtime_ns
    train("dverge", DIGITS, out, seed=1, **options)
    assert (out / "start" / "model.keras").stat().st_mtime_ns == before


def of_another_network(model):
    """The same layers and weights, and another activation, as a network was in an older version."""
    networks = [keras.Model.from_config(rectified(member.get_config())) for member in model.members]
    other = type(model)(networks)
    other.compile(keras.optimizers.Adam(), model.loss)
    other.set_weights(model.get_weights())
    return other


def rectified(config):
    for layer in config["layers"]:
        if layer["class_name"] == "Conv2D":
            layer["config"]["activation"] = "tanh"
    return config


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize("finished", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("resumed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_start_of_a_network_that_has_changed_is_refused_before_it_is_trained(
    tmp_path, tiny_networks, monkeypatch, finished, resumed
):
    out = tmp_path / "run"
    options = {"recipe": Recipe(epochs=2, batch_size=16), "num_members": 2, "verbose": 0}

    def save_older(folder, model, epochs):
        save_checkpoint(folder, of_another_network(model), epochs)
        if not finished:
            raise KeyboardInterrupt

    def finish_older(folder, model):
        finish_run(folder, of_another_network(model))
        raise KeyboardInterrupt  # before the run itself began

    with monkeypatch.context() as older:
        older.setattr("parl_tf.training.checkpoints.save_checkpoint", save_older)
        older.setattr("parl_tf.training.fitting.finish_run", finish_older)
        with pytest.raises(KeyboardInterrupt):
            train("dverge", DIGITS, out, **options)
    before = contents(out)
    assert ("start/model.keras" if finished else "start/checkpoint-0001.keras") in before
    with pytest.raises(ExistingRunError, match=r"holds another network.*'tanh'.* there"):
        resume(out, verbose=0) if resumed else train("dverge", DIGITS, out, **options)
    assert contents(out) == before
    if not finished:
        (out / "start" / "checkpoint-0001.keras").write_bytes(b"")  # which is begun anew
        train("dverge", DIGITS, out, **options)
        assert (out / "model.keras").exists()


class InterruptedIn(keras.callbacks.Callback):
    """Ends a training as Ctrl-C does, in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.interrupted_epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.epoch == self.interrupted_epoch and batch == 1:
            raise KeyboardInterrupt


def assert_equal_runs(folder, ensemble, other_folder, other):
    assert (folder / "history.csv").read_bytes() == (other_folder / "history.csv").read_bytes()
    for ours, theirs in (
        *zip(ensemble.variables, other.variables, strict=True),
        *zip(ensemble.optimizer.variables, other.optimizer.variables, strict=True),
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)


@pytest.mark.parametrize(
    ("method", "recipe", "arguments"),
    [
        ("unprotected", {"noise_stddev": 0.1}, {}),
        pytest.param(
            "unprotected",
            {"warm_up": 0.4, "annealing": "linear", "optimizer": "nesterov", "weight_decay": 0.01},
            {},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "parl",
            {},
            {"num_layers": 1, "adversarial_training": {"num_steps": 1}},
            marks=pytest.mark.slow,
        ),
        pytest.param("trs", {"optimizer": "sgd", "decay_at": (0.4,)}, {}, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_training_continues_as_if_it_had_not_been(
    tmp_path, tiny_networks, caplog, method, recipe, arguments
):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    recipe = Recipe(epochs=3, batch_size=16, **recipe)
    options = {"recipe": recipe, "num_members": 2, "seed": 1, "verbose": 0}
    uninterrupted = train(method, DIGITS, whole, arguments=arguments, **options)
    keras.utils.set_random_seed(99)  # nothing is drawn from global generators
    with pytest.raises(KeyboardInterrupt):
        train(method, DIGITS, resumed, arguments=arguments, callbacks=[InterruptedIn(1)], **options)
    left = ["checkpoint-0001.keras", "checkpoint-0001.keras.sha256", "config.json", "history.csv"]
    assert sorted(path.name for path in resumed.iterdir()) == left
    with caplog.at_level(logging.INFO, logger="parl_tf"):
        ensemble = resume(resumed, verbose=0)
    assert "continuing after 1 of 3 epochs" in caplog.text
    assert [row["epoch"] for row in read_history(resumed)] == [0, 1, 2]
    assert_equal_runs(resumed, ensemble, whole, uninterrupted)
    assert sorted(path.name for path in resumed.iterdir()) == [*left[2:], "model.keras"]
    assert read_config(resumed) == read_config(whole)
    with pytest.raises(ExistingRunError, match="is finished"):
        resume(resumed)


LATER = {
    "trs": {"smoothness_scale": "example", "move_half": True},
    "guardian": {"stem_tap": None, "norms": "differentiated", "correlation": "pearson"},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", LATER)
def test_a_run_of_an_older_version_is_continued_as_it_was_begun(tmp_path, tiny_networks, method):
    """Its configuration and its checkpoint lack the method's later arguments."""
    options = {"recipe": Recipe(epochs=2, batch_size=16), "num_members": 2, "verbose": 0}
    arguments = {**LATER[method], **({"num_layers": 1} if method == "guardian" else {})}
    whole = train(method, DIGITS, tmp_path / "whole", arguments=arguments, **options)
    older = tmp_path / "older"
    with pytest.raises(KeyboardInterrupt):
        train(method, DIGITS, older, arguments=arguments, callbacks=[InterruptedIn(1)], **options)
    config = read_config(older).to_json()
    for name in LATER[method]:
        del config["arguments"][name]
    (older / "config.json").write_text(json.dumps(config))
    checkpoint = older / "checkpoint-0001.keras"
    without(checkpoint, LATER[method])
    continued = resume(older, verbose=0)
    for ours, theirs in zip(continued.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    found = continued.get_config()
    assert {name: found[name] for name in LATER[method]} == LATER[method]


def without(checkpoint, names):
    """Takes arguments out of a saved ensemble, and renews the checksum beside it."""
    with zipfile.ZipFile(checkpoint) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    for name in names:
        del config["config"][name]
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(checkpoint, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    checksum = checkpoint.with_name(f"{checkpoint.name}.sha256")
    checksum.write_text(f"{sha256_of(checkpoint)}  {checkpoint.name}\n")


@pytest.mark.slow
def test_dverge_and_its_start_continue_each_from_its_own_checkpoint(
    tmp_path, tiny_networks, monkeypatch
):
    # Six trainings: what is the same for every method is left out of them.
    monkeypatch.setattr("parl_tf.training.fitting.DiversityDiagnostics", lambda *_: [])
    digits = parl_tf.load_dataset("digits", train_examples=64, validation_fraction=0)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    options = {"recipe": Recipe(**SHORT), "num_members": 2, "seed": 1, "verbose": 0}
    options["arguments"] = {"num_steps": 1}
    uninterrupted = train("dverge", digits, whole, **options)
    interrupted = []

    class InterruptedOnce(Checkpoints):
        def on_epoch_end(self, epoch, logs=None):  # the history has its line by now
            if epoch == 1 and type(self.model) not in interrupted:
                interrupted.append(type(self.model))
                raise KeyboardInterrupt
            super().on_epoch_end(epoch, logs)

    monkeypatch.setattr("parl_tf.training.fitting.Checkpoints", InterruptedOnce)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train("dverge", digits, resumed, **options)
    assert interrupted == [parl_tf.Ensemble, parl_tf.DVERGE]
    starts = [folder / "start" / "history.csv" for folder in (whole, resumed)]
    assert starts[0].read_bytes() == starts[1].read_bytes()
    shutil.rmtree(resumed / "start")  # which is not needed any more
    ensemble = train("dverge", digits, resumed, **options)
    assert_equal_runs(resumed, ensemble, whole, uninterrupted)
    assert not (resumed / "start").exists()


def test_a_run_that_another_process_is_at_is_refused(tmp_path, tiny_networks):
    out = tmp_path / "run"
    with locked(out), pytest.raises(ExistingRunError, match="Another process"):
        train("unprotected", DIGITS, out, recipe=Recipe(**SHORT), num_members=2)
    assert not list(out.iterdir())


def test_checkpoints_that_cannot_be_continued_are_not_thrown_away(tmp_path, tiny_networks, caplog):
    out = tmp_path / "run"
    options = {"recipe": Recipe(epochs=3, batch_size=16), "num_members": 2, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        train("unprotected", DIGITS, out, callbacks=[InterruptedIn(1)], **options)
    (out / "history.csv").write_text("epoch\n")
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(ExistingRunError, match="None of the checkpoints"):
        resume(out, verbose=0)
    assert sorted(path.name for path in out.iterdir()) == before
    assert "starting over" not in caplog.text
    train("unprotected", DIGITS, out, **options)
    assert "starting over" in caplog.text
    assert (out / "model.keras").exists()


def test_a_loss_that_diverges_leaves_the_checkpoint_before(tmp_path, tiny_networks):
    class Poison(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 8:  # the last step of the second epoch
                weights = self.model.members[0].get_weights()
                self.model.members[0].set_weights([np.full_like(w, np.inf) for w in weights])

    out = tmp_path / "run"
    options = {"recipe": Recipe(epochs=3, batch_size=16), "num_members": 2, "verbose": 0}
    with pytest.raises(DivergedError, match=r"became infinite or NaN in epoch 2\."):
        train("unprotected", DIGITS, out, callbacks=[Poison()], **options)
    assert list(find_checkpoints(out)) == [1]
    assert [row["epoch"] for row in read_history(out)] == [0]


def test_a_training_that_lacks_only_its_end_is_finished(tmp_path, tiny_networks, monkeypatch):
    out = tmp_path / "run"
    options = {"recipe": Recipe(epochs=1, batch_size=16), "num_members": 2, "verbose": 0}

    def interrupted(folder, model):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("parl_tf.training.fitting.finish_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("unprotected", DIGITS, out, **options)
    saved = keras.models.load_model(out / "checkpoint-0001.keras")
    history = (out / "history.csv").read_bytes()
    ensemble = train("unprotected", DIGITS, out, **options)
    for found, expected in zip(ensemble.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (out / "history.csv").read_bytes() == history
    assert (out / "model.keras").exists()


def test_a_bad_start_leaves_nothing_behind(tmp_path, tiny_networks):
    out = tmp_path / "run"
    recipe = Recipe(epochs=1, batch_size=16)
    with pytest.raises(MissingFileError):
        train("dverge", DIGITS, out, recipe=recipe, start_from=tmp_path / "nothing")
    assert not out.exists()


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ({"decay_at": (0.5, 0.8)}, [1.0] * 5 + [0.1] * 3 + [0.01] * 2),
        ({"decay_at": (0.3,)}, [1.0] * 3 + [0.1] * 7),
        ({"decay_at": ()}, [1.0] * 10),
        ({}, [0.5 * (1 + np.cos(np.pi * step / 10)) for step in range(10)]),
        ({"annealing": "linear"}, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        (
            {"warm_up": 0.49, "annealing": "linear"},
            [0.2, 0.4, 0.6, 0.8, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
        ),
        (
            {"warm_up": 0.2},
            [1 / 3, 2 / 3, *(0.5 * (1 + np.cos(np.pi * step / 8)) for step in range(8))],
        ),
        ({"warm_up": 0.99, "annealing": "linear"}, [step / 10 for step in range(1, 11)]),
    ],
)
@pytest.mark.parametrize(
    ("name", "kind"), [("adam", parl_tf.FusedAdam), ("sgd", keras.optimizers.SGD)]
)
def test_rate_follows_the_schedule_step_by_step(schedule, rates, name, kind):
    recipe = Recipe(epochs=2, optimizer=name, learning_rate=1.0, **schedule)
    optimizer = optimizer_of(recipe, 5)
    assert type(optimizer) is kind
    optimizer = kind.from_config(optimizer.get_config())  # as from a checkpoint
    found = []
    for step in range(10):
        optimizer.iterations.assign(step)
        found.append(float(optimizer.learning_rate))
    assert found == pytest.approx(rates, abs=1e-6)


@pytest.mark.parametrize(
    ("method", "epochs"),
    [
        ("adp", (101, 50, 49)),
        ("trs", (41, 40, 39)),
        ("guardian", (25, 15, 10)),
        ("dverge", (100, 50, 50)),
        ("gal", (100, 50, 50)),
    ],
)
@pytest.mark.parametrize("steps", [1, 351, 703])
def test_rates_fall_after_whole_epochs_as_in_the_authors_code(method, epochs, steps):
    recipe = recipe_for(method)
    assert sum(epochs) == recipe.epochs
    optimizer = optimizer_of(recipe, steps)
    for number, ends in enumerate(np.cumsum(epochs)):
        for step in (ends * steps - epochs[number] * steps, ends * steps - 1):  # first and last
            optimizer.iterations.assign(step)
            expected = recipe.learning_rate / 10**number
            assert float(optimizer.learning_rate) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.9 * 0.1 + 0.1),
        ({"optimizer": "nesterov"}, 0.9 * (0.9 * 0.1 + 0.1) + 0.1),
        ({"weight_decay": 0.5}, 0.9 * 0.1 + 0.1 + 0.05 * 0.85),
    ],
)
def test_the_second_step_of_an_optimizer(changes, expected):
    """From 1, with gradients of 1, a rate of 0.1 and momentum 0.9."""
    recipe = Recipe(**{"optimizer": "sgd", "learning_rate": 0.1, "decay_at": (), **changes})
    optimizer, weight = optimizer_of(recipe, 5), keras.Variable(1.0)
    optimizer.build([weight])
    values = [1.0]
    for _ in range(2):
        optimizer.apply([keras.ops.ones(())], [weight])
        values.append(float(weight))
    assert values[1] - values[2] == pytest.approx(expected, rel=1e-5)


def test_adam_decays_weights_apart_from_their_gradients():
    found = []
    for weight_decay in (0.0, 0.5):
        recipe = Recipe(learning_rate=0.1, decay_at=(), weight_decay=weight_decay)
        optimizer, weight = optimizer_of(recipe, 5), keras.Variable(2.0)
        optimizer.build([weight])
        optimizer.apply([keras.ops.ones(())], [weight])
        found.append(float(weight))
    assert found[0] - found[1] == pytest.approx(0.1 * 0.5 * 2.0, rel=1e-5)


def cifar(name):
    """Noise under the name of a data set."""
    draw = np.random.default_rng(0)
    split = parl_tf.data.examples.Split(draw.random((20, 8, 8, 3), "float32"), np.arange(20) % 10)
    return parl_tf.data.datasets.Dataset(
        name, tuple("abcdefghij"), split, split, split, "0" * 16, 0
    )


@pytest.mark.parametrize(
    ("method", "name", "mean", "deviation"),
    [
        ("dverge", "cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("trs", "cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("gal", "cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("dverge", "cifar100", (0.5071, 0.4865, 0.4409), (0.2009, 0.1984, 0.2023)),
        ("dverge", "digits", (0.3051,) * 3, (0.3240,) * 3),
        ("parl", "cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("guardian", "cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ],
)
def test_pixels_are_normalised_as_in_the_method_s_recipe(method, name, mean, deviation):
    recipe = recipe_for(method, network="resnet8")
    member = build_ensemble(method, cifar(name), recipe=recipe, num_members=2).members[0]
    (layer,) = [layer for layer in member.layers if type(layer).__name__ == "Normalization"]
    pixels = np.random.default_rng(1).random((1, 8, 8, 3), "float32")
    np.testing.assert_allclose(layer(pixels), (pixels - mean) / np.array(deviation), rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "penalty", "count"),
    [("dverge", 5e-5, 29), ("trs", 5e-5, 29), ("guardian", 0.0, 0), ("adp", 1e-4, 9)],
)
def test_weights_decay_as_in_the_method_s_recipe(method, penalty, count):
    """Nine kernels, nine scales and offsets and the dense layer, or the kernels alone."""
    network = "resnet8-shortcut-batch-norm" if penalty == 5e-5 else "resnet8"
    recipe = recipe_for(method, network=network)
    for member in build_ensemble(method, cifar("cifar10"), recipe=recipe, num_members=2).members:
        weights = member.trainable_variables
        assert len(member.losses) == count
        if count == 9:
            weights = [w for w in weights if len(w.shape) == 4]
        expected = penalty * sum(np.sum(np.square(weight.numpy())) for weight in weights)
        assert float(sum(member.losses)) == pytest.approx(expected, rel=1e-5)


def test_a_folder_of_something_else_is_refused_before_anything_is_done(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExistingRunError):
        train("unprotected", DIGITS, tmp_path)
