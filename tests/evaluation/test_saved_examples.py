import dataclasses
import json

import numpy as np
import pytest
from harness.marks import slow_except
from harness.networks import examples, plain_network
from harness.run_configs import run_config

import parl_tf
from parl_tf.attacks import base
from parl_tf.attacks.iterative import FGSM
from parl_tf.attacks.uniform_noise import UniformNoise
from parl_tf.errors import ExistingRunError, InputError, MissingFileError, UnreadableFileError
from parl_tf.evaluation import judging
from parl_tf.evaluation.cases import Case
from parl_tf.evaluation.examples import grouped, load_images, read_examples
from parl_tf.evaluation.robustness import evaluate_cases
from parl_tf.evaluation.saved_examples import evaluate_examples
from parl_tf.results.files import checksum, load_records
from parl_tf.results.records import ModelCard

TARGETS = {
    "single": plain_network(0),
    "pair": parl_tf.Ensemble([plain_network(1), plain_network(2)]),
}
SURROGATES = {"first": plain_network(3), "second": plain_network(4)}
MODELS = {**TARGETS, **SURROGATES}
LATER = {"later": plain_network(5)}
NOISE = UniformNoise(restarts=3)
CASES = [
    Case("black_box", FGSM(), 0.1),
    Case("black_box", NOISE, 0.3),
    Case("white_box", FGSM(), 0.05),
]
IMAGES, LABELS = examples(21)
OPTIONS = {"seed": 5, "batch_size": 8}


def evaluate(targets=TARGETS, surrogates=SURROGATES, cases=CASES, **changes):
    options = {**OPTIONS, **changes}
    return evaluate_cases(targets, cases, (IMAGES, LABELS), surrogates=surrogates, **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of examples, and the records of the evaluation that left it."""
    folder = tmp_path_factory.mktemp("examples") / "set"
    return folder, evaluate(examples_out=folder)


@pytest.fixture
def folder(tmp_path):
    """A small folder of examples of its own, to be spoiled."""
    evaluate({"single": TARGETS["single"]}, {}, CASES[2:], examples_out=tmp_path / "examples")
    return tmp_path / "examples"


def rewrite(folder, change):
    """Changes the index of a folder, which then has a checksum that fits."""
    index = json.loads((folder / "examples.json").read_text())
    change(index)
    index["checksum"] = checksum(index)
    (folder / "examples.json").write_text(json.dumps(index))


def replace_images(folder, save):
    """Replaces the only file of a folder, with an index that fits."""
    import hashlib

    (path,) = folder.glob("*.npy")
    with open(path, "wb") as file:
        save(file)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(folder, lambda index: index["sets"][0].update(sha256=digest))


def show(folder, targets=LATER, data=(IMAGES, LABELS), **options):
    return evaluate_examples(targets, folder, data, **options)


def comparable(records):
    """What does not differ between showing examples and crafting them."""
    return [dataclasses.replace(r, seconds=0.0, protocol="any", surrogate=None) for r in records]


@pytest.mark.parametrize(
    ("change", "is_taken"), [({}, True), ({"oneDNN": "other"}, False), ({"keras": "2"}, False)]
)
def test_a_folder_may_lack_versions_that_were_not_recorded_then(folder, change, is_taken):
    def older(index):
        del index["versions"]["oneDNN"]
        index["versions"].update(change)

    rewrite(folder, older)
    before = json.loads((folder / "examples.json").read_text())
    given = ({"single": TARGETS["single"]}, {}, CASES[2:])
    if is_taken:
        evaluate(*given, examples_out=folder)
    else:
        with pytest.raises(ExistingRunError, match="holds examples of another evaluation"):
            evaluate(*given, examples_out=folder)
    assert json.loads((folder / "examples.json").read_text()) == before


def test_saved_examples_are_what_the_attack_returns(saved):
    folder, _ = saved
    common, sets = read_examples(folder)
    assert (common["seed"], common["batch_size"]) == (5, 8)
    assert len(sets) == 2 + 2 * 3 + 2
    attacks = {"fgsm": FGSM(), "uniform-noise": NOISE}
    for found in sets:
        images = np.load(folder / found.file)
        assert images.dtype == np.float32
        attack = attacks[found.attack]
        assert found.hyperparameters == dataclasses.asdict(attack)
        expected = attack(
            MODELS[found.crafted_on.name],
            IMAGES,
            LABELS,
            epsilon=found.epsilon,
            seed=5,
            restart=found.restart,
            batch_size=8,
        )
        assert images.tobytes() == expected.tobytes()
    assert sorted(path.suffix for path in folder.iterdir()) == [".json"] + [".npy"] * len(sets)


def test_saving_changes_no_result(saved):
    assert comparable(saved[1]) == comparable(evaluate())


def test_other_targets_see_what_they_would_have_seen(saved, tmp_path):
    folder, _ = saved
    out = tmp_path / "results.json"
    shown = show(folder, out=out)
    direct = evaluate(LATER, cases=CASES[:2])
    assert load_records(out) == shown
    assert {record.protocol for record in shown} == {"saved-examples"}
    for record in direct:
        (same,) = (
            found
            for found in shown
            if (found.attack, found.epsilon) == (record.attack, record.epsilon)
            and found.surrogate == record.surrogate
        )
        assert comparable([same]) == comparable([record])
    # And those that were crafted white box on others are black box here.
    rest = {r.surrogate.name for r in shown if r.epsilon == 0.05}
    assert rest == {"single", "pair"}
    assert {r.threat_model for r in shown if r.attack != "clean"} == {"black_box"}
    assert len(shown) == 1 + 2 + 2 + 2


def test_examples_shown_to_the_model_itself_are_white_box(saved):
    folder, crafted = saved
    shown = show(folder, {"renamed": TARGETS["single"]})
    (itself,) = (record for record in shown if record.threat_model == "white_box")
    (before,) = (
        record
        for record in crafted
        if (record.threat_model, record.target.name) == ("white_box", "single")
    )
    assert itself.surrogate is None
    assert itself.correct == before.correct
    assert itself.epsilon == 0.05


def test_the_run_that_trained_a_surrogate_is_read_again(tmp_path):
    configs = {"first": run_config("parl", 7, arguments={"num_layers": 3}), "second": None}
    crafted = evaluate(cases=CASES[:1], configs=configs, examples_out=tmp_path / "examples")
    again = evaluate(cases=CASES[:1], configs=configs, examples_out=tmp_path / "examples")
    _, sets = read_examples(tmp_path / "examples")
    assert {found.crafted_on.name: found.crafted_on.config for found in sets} == configs
    assert comparable(again) == comparable(crafted)
    shown = show(tmp_path / "examples", TARGETS)
    assert {r.surrogate.name: r.surrogate.config for r in shown if r.surrogate} == configs


def test_a_finished_showing_is_not_run_again_and_another_is_refused(saved, tmp_path, monkeypatch):
    folder, _ = saved
    out = tmp_path / "results.json"
    records = show(folder, out=out)
    with monkeypatch.context() as patch:
        patch.setattr(judging.Judge, "__call__", lambda *_: pytest.fail("judged"))
        assert show(folder, out=out) == records
    before = out.read_bytes()
    with pytest.raises(ExistingRunError, match="its targets is"):
        show(folder, {"later": plain_network(6)}, out=out)
    assert out.read_bytes() == before
    more = show(folder, {**LATER, "single": TARGETS["single"]}, out=out)
    assert {record.target.name for record in more} == {"later", "single"}


def test_images_are_read_through_a_memory_map(saved, monkeypatch):
    folder, _ = saved
    _, sets = read_examples(folder)
    images = load_images(folder, sets[0], IMAGES)
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable


def test_images_are_written_through_a_memory_map(tmp_path, monkeypatch):
    opened, open_memmap = [], np.lib.format.open_memmap

    def kept(*arguments, **options):
        opened.append(open_memmap(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(np.lib.format, "open_memmap", kept)
    evaluate(cases=CASES[1:2], examples_out=tmp_path / "examples")
    assert len(opened) == 2 * 3
    assert all(isinstance(array, np.memmap) for array in opened)


class Stop(Exception):
    """What interrupts."""


@pytest.mark.parametrize("batches", slow_except([0, 2, 3, 7], 2, 7))
@pytest.mark.parametrize("with_results", [False, True])
def test_interrupted_in_the_middle_of_a_set(tmp_path, monkeypatch, saved, batches, with_results):
    options = {"cases": CASES[:2], "examples_out": tmp_path / "examples"}
    if with_results:
        options["out"] = tmp_path / "results.json"
    call, calls = base.Crafter.__call__, []

    def craft(self, *arguments, **how):
        if len(calls) == batches:
            raise Stop
        calls.append(how)
        return call(self, *arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(base.Crafter, "__call__", craft)
        with pytest.raises(Stop):
            evaluate(**options)
    _, sets = read_examples(tmp_path / "examples")
    assert len(sets) == batches // 3  # three batches a set; part of one is none
    evaluate(**options)
    whole, _ = saved
    expected = [path for path in whole.iterdir() if "0.05" not in path.name]
    assert {p.name for p in (tmp_path / "examples").iterdir()} == {p.name for p in expected}
    for path in expected:
        if path.suffix == ".npy":
            assert (tmp_path / "examples" / path.name).read_bytes() == path.read_bytes()


def test_interrupted_between_a_file_and_its_index(tmp_path, monkeypatch, saved):
    def fail(self):
        raise Stop

    folder = tmp_path / "examples"
    with monkeypatch.context() as patch:
        patch.setattr("parl_tf.evaluation.examples.sha256_of", fail)
        with pytest.raises(Stop):
            evaluate(cases=CASES[:1], examples_out=folder)
    assert read_examples(folder)[1] == []
    evaluate(cases=CASES[:1], examples_out=folder)
    assert len(read_examples(folder)[1]) == 2


def test_examples_that_are_there_are_not_crafted_again(saved, monkeypatch):
    folder, _ = saved
    index = (folder / "examples.json").read_bytes()
    out = folder.parent / "results.json"
    evaluate(out=out, examples_out=folder)  # records were not kept: crafted for them
    monkeypatch.setattr(base.Crafter, "__init__", lambda *_: pytest.fail("crafted"))
    evaluate(out=out, examples_out=folder)
    found, there = json.loads(index), json.loads((folder / "examples.json").read_text())
    assert found["sets"] == there["sets"]


def test_examples_asked_for_later_are_crafted_without_judging(tmp_path, saved, monkeypatch):
    out, folder = tmp_path / "results.json", tmp_path / "examples"
    records = evaluate(cases=CASES[:1], out=out)
    monkeypatch.setattr(judging.Judge, "__call__", lambda *_: pytest.fail("judged"))
    assert evaluate(cases=CASES[:1], out=out, examples_out=folder) == records
    for path in folder.glob("*.npy"):
        assert path.read_bytes() == (saved[0] / path.name).read_bytes()
    assert len(list(folder.glob("*.npy"))) == 2


@pytest.mark.parametrize("changes", [{"seed": 6}, {"batch_size": 7}])
def test_a_folder_of_other_examples_is_refused(folder, changes):
    before = (folder / "examples.json").read_bytes()
    with pytest.raises(ExistingRunError, match="holds examples of another evaluation"):
        evaluate(examples_out=folder, **changes)
    assert (folder / "examples.json").read_bytes() == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(ExistingRunError, match="a new or empty folder for examples"):
            evaluate(examples_out=tmp_path / name, out=tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()
    assert (tmp_path / "file").read_text() == "mine"


def test_two_models_of_one_name_are_refused(folder):
    evaluate({"single": plain_network(9)}, {}, CASES[2:], examples_out=folder)
    with pytest.raises(InputError, match="names"):
        show(folder)


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_no_examples_there(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingFileError, match="holds no adversarial examples"):
        show(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((IMAGES[::-1], LABELS), "images that the examples were crafted from"),
        ((IMAGES, (LABELS + 1) % 4), "images that the examples were crafted from"),
        ((IMAGES[:20], LABELS[:20]), "images that the examples were crafted from"),
        ((IMAGES[:, :4], LABELS), "images of shape"),
    ],
)
def test_examples_of_other_images_are_refused(saved, tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        show(saved[0], data=data, out=tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()


def test_a_changed_or_missing_file_is_noticed(folder, tmp_path):
    (path,) = folder.glob("*.npy")
    whole = path.read_bytes()
    for spoiled in (whole[:-1], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(spoiled)
        with pytest.raises(UnreadableFileError, match="missing or was changed"):
            show(folder)
    path.unlink()
    with pytest.raises(UnreadableFileError, match="missing or was changed"):
        show(folder, out=tmp_path / "results.json")


def array_of(images):
    return lambda file: np.save(file, images, allow_pickle=True)


FURTHER = np.clip(IMAGES + 0.06, 0, 1)
NAN = np.where(np.arange(8)[:, np.newaxis] == 3, np.nan, IMAGES)


@pytest.mark.parametrize(
    ("save", "error", "message"),
    [
        (array_of(IMAGES.astype(object)), UnreadableFileError, "not an array"),
        (array_of({"images": IMAGES}), UnreadableFileError, "not an array"),
        (lambda file: np.savez(file, images=IMAGES), UnreadableFileError, "not an array"),
        (lambda file: file.write(b""), UnreadableFileError, "not an array"),
        (lambda file: file.write(b"\x93NUMPY\x01\x00"), UnreadableFileError, "not an array"),
        (lambda file: file.write(b"\x80\x04N."), UnreadableFileError, "not an array"),
        (array_of(FURTHER), InputError, "within 0.05 of their images"),
        (array_of(IMAGES - 0.04), InputError, r"in \[0, 1\]"),
        (array_of(NAN.astype("float32")), InputError, "within 0.05"),
        (array_of(IMAGES.astype("float64")), InputError, "float32 examples of shape"),
        (array_of(IMAGES[:20]), InputError, "float32 examples of shape"),
        (array_of(IMAGES[..., 0]), InputError, "float32 examples of shape"),
    ],
)
def test_files_that_are_no_examples_are_refused(folder, tmp_path, save, error, message):
    replace_images(folder, save)
    with pytest.raises(error, match=message):
        show(folder, out=tmp_path / "results.json")


def test_examples_on_the_edge_of_their_ball_are_shown(folder):
    edge = np.clip(IMAGES + np.float32(0.05), 0, 1)
    replace_images(folder, array_of(edge))
    assert len(show(folder)) == 2


def test_an_index_changed_by_hand_is_noticed(folder):
    path = folder / "examples.json"
    text = path.read_text()
    path.write_text(text.replace("0.05", "0.06", 1))
    with pytest.raises(UnreadableFileError, match="changed after it was written"):
        show(folder)
    for length in range(0, len(text) - 2, 41):
        path.write_text(text[:length])
        with pytest.raises(UnreadableFileError, match=r"examples\.json"):
            read_examples(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("file", "../x.npy"),
        ("file", "/etc/passwd"),
        ("file", "deep/x.npy"),
        ("file", "..npy/../x.npy"),
        ("file", ".."),
        ("file", "x.pkl"),
        ("file", 3),
        ("file", None),
        ("epsilon", 0),
        ("epsilon", 2),
        ("epsilon", "0.1"),
        ("restart", -1),
        ("restart", 0.5),
        ("restart", None),
        ("attack", 3),
        ("attack", ""),
        ("hyperparameters", []),
        ("hyperparameters", {"num_steps": [1]}),
        ("crafted_on", "single"),
        ("crafted_on", {"name": "single"}),
        ("crafted_on", {"name": 3, "fingerprint": "00"}),
        ("crafted_on", {"name": "single", "fingerprint": None}),
    ],
)
def test_sets_that_make_no_sense_are_refused_with_any_checksum(folder, name, value):
    rewrite(folder, lambda index: index["sets"][0].update({name: value}))
    with pytest.raises(UnreadableFileError, match="is damaged"):
        show(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"sets": None},
        {"sets": [1]},
        {"sets": [{}]},
        {"data": None},
        {"data": {}},
        {"data": {"fingerprint": "00", "num_examples": "21"}},
        {"batch_size": "8"},
        {"batch_size": 0},
        {"seed": None},
    ],
)
def test_an_index_that_makes_no_sense_is_refused_with_any_checksum(folder, changes):
    rewrite(folder, lambda index: index.update(changes))
    with pytest.raises(UnreadableFileError, match="is damaged"):
        show(folder)


def test_two_sets_of_one_restart_are_refused(folder):
    rewrite(folder, lambda index: index["sets"].append({**index["sets"][0]}))
    with pytest.raises(UnreadableFileError, match="two sets for one attack"):
        show(folder)


def test_an_index_of_another_format_is_refused(folder):
    rewrite(folder, lambda index: index.update(format=1))
    with pytest.raises(UnreadableFileError, match="has format 1"):
        show(folder)


def test_restarts_are_grouped_in_their_order(saved):
    _, sets = read_examples(saved[0])
    groups = grouped(sets[::-1])
    assert sorted(len(group) for group in groups) == [1, 1, 1, 1, 3, 3]
    for group in groups:
        assert [found.restart for found in group] == list(range(len(group)))
    assert all(isinstance(found.crafted_on, ModelCard) for found in sets)
