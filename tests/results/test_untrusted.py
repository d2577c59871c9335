"""Files from strangers: whatever is in them, what comes is a clear error."""

import contextlib
import copy
import functools
import json
import pathlib
import zipfile

import h5py
import keras
import pytest
from harness.networks import pooled_network
from harness.report_records import diversity
from harness.run_configs import run_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_records import record
from test_results import PLAN

import parl_tf
from parl_tf.errors import ExistingRunError, InputError, MissingFileError, UnreadableFileError
from parl_tf.results.diversity import load_diversity, save_diversity
from parl_tf.results.files import checksum, load_records, to_document
from parl_tf.training import building, resuming
from parl_tf.training import fitting as training
from parl_tf.training.folders import begin_run, load_model
from parl_tf.training.recipe import Recipe

CLEAR = (ExistingRunError, InputError, MissingFileError, UnreadableFileError)
MANY = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def places(value, path=()):
    """The paths of everything in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


@st.composite
def changed(draw, value):
    """A JSON value with one to three of its entries replaced or removed."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from([path for path in places(value) if path]))
        entry = functools.reduce(lambda inner, key: inner[key], parents, value)
        if draw(st.booleans()):
            entry[last] = draw(VALUES)
        else:
            del entry[last]
        if not value:
            return value
    return value


@st.composite
def damaged(draw, content):
    """Bytes with some of them changed, cut out or put in."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 40))
        content[place : place + length] = draw(st.binary(max_size=40))
    return bytes(content)


def read_in_peace(read, path):
    """Reads; nothing but the package's own errors may come of it."""
    try:
        return read(path)
    except CLEAR:
        return None


RESULTS = to_document([record(), record(epsilon=0.05)], PLAN, True)


@given(document=changed(RESULTS))
@MANY
def test_changed_results(tmp_path, document):
    path = tmp_path / "results.json"
    with contextlib.suppress(ValueError):
        document = {**document, "checksum": checksum(document)}  # as a forger would
    path.write_text(json.dumps(document))
    read_in_peace(load_records, path)


@given(content=damaged(json.dumps(RESULTS).encode()))
@MANY
def test_damaged_results(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    found = read_in_peace(load_records, path)
    assert found is None or json.loads(content) == RESULTS


@given(data=st.data())
@MANY
def test_changed_diversity(tmp_path, data):
    path = tmp_path / "diversity.json"
    save_diversity(diversity("cifar10", "parl7", 0), path)
    document = data.draw(changed(json.loads(path.read_text())))
    with contextlib.suppress(ValueError):
        document = {**document, "checksum": checksum(document)}
    path.write_text(json.dumps(document))
    read_in_peace(load_diversity, path)


@pytest.fixture(scope="module")
def digits():
    return parl_tf.load_dataset("digits", train_examples=64, validation_examples=20)


@pytest.fixture
def unfinished(tmp_path, digits, monkeypatch):
    """A run folder as it is before its first checkpoint, and training without any step."""

    class Names(dict):
        def __getitem__(self, name):
            if name != "resnet20":
                raise InputError(f"Unknown network {name!r}.")
            return functools.partial(pooled_network, num_convolutions=2)

    class Trained(Exception):
        pass

    def stop(*arguments):
        raise Trained

    monkeypatch.setattr(building, "NETWORKS", Names())
    monkeypatch.setattr(training, "_fit", stop)
    monkeypatch.setattr(resuming, "enable_determinism", lambda: None)
    folder = tmp_path / "run"
    options = {"recipe": Recipe(epochs=2, batch_size=16), "num_members": 2}
    with pytest.raises(Trained):
        training.train("parl", digits, folder, arguments={"num_layers": 2}, **options)
    monkeypatch.setattr(training, "_fit", lambda *arguments: None)
    monkeypatch.setattr(training, "finish_run", lambda *arguments: None)
    return folder


def test_what_was_begun_resumes(unfinished):
    assert isinstance(resuming.resume(unfinished), parl_tf.PARL)


@given(data=st.data())
@settings(MANY, max_examples=60)
def test_changed_configurations(unfinished, data):
    path = unfinished / "config.json"
    before = path.read_text()
    path.write_text(json.dumps(data.draw(changed(json.loads(before)))))
    try:
        read_in_peace(resuming.resume, unfinished)
    finally:
        path.write_text(before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "ensemble.keras"
    shape = {"input_shape": (32, 32, 3), "normalization": None, "num_convolutions": 1}
    members = [pooled_network(10, seed=seed, **shape) for seed in range(2)]
    parl_tf.PARL(members, num_layers=1).save(path)
    return path


@given(data=st.data())
@settings(MANY, max_examples=40)
def test_damaged_models(tmp_path, saved, data):
    path = tmp_path / "model.keras"
    path.write_bytes(data.draw(damaged(saved.read_bytes())))
    read_in_peace(load_model, path)


@given(data=st.data())
@settings(MANY, max_examples=40)
def test_models_of_changed_configurations(tmp_path, saved, data):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(path, "w") as forged:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "config.json":
                content = json.dumps(data.draw(changed(json.loads(content)))).encode()
            forged.writestr(name, content)
    found = read_in_peace(load_model, path)
    if found:  # then it is a classifier of images
        answers = found[0](keras.ops.zeros((1, 32, 32, 3)))
        assert answers.shape == (1, 10)


def test_a_model_whose_graph_cannot_be_put_together_is_refused(tmp_path, saved):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(path, "w") as forged:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "config.json":
                members = json.loads(content)
                layers = members["config"]["members"][0]["config"]["layers"]
                tensor = layers[-1]["inbound_nodes"][0]["args"][0]["config"]
                tensor["keras_history"][1] = 7  # the eighth call of a layer that is called once
                content = json.dumps(members).encode()
            forged.writestr(name, content)
    with pytest.raises(CLEAR):
        load_model(path)


def test_a_model_that_would_fill_the_memory_once_unpacked_is_refused(tmp_path, saved):
    path = tmp_path / "model.keras"
    with (
        zipfile.ZipFile(saved) as whole,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as forged,
    ):
        forged.writestr("config.json", whole.read("config.json"))
        forged.writestr("model.weights.h5", b"\0" * 50_000_000)
    with pytest.raises(UnreadableFileError, match="unpack to 50,"):
        load_model(path)


def test_weights_that_are_only_declared_are_refused(tmp_path, saved):
    path, weights = tmp_path / "model.keras", tmp_path / "weights.h5"
    with h5py.File(weights, "w") as file:
        file.create_dataset("layers/dense/vars/0", (250_000_000,), "float32", chunks=(1000,))
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(path, "w") as forged:
        forged.writestr("config.json", whole.read("config.json"))
        forged.writestr("model.weights.h5", weights.read_bytes())
    with pytest.raises(UnreadableFileError, match="unpack to 1,000,000,000"):
        load_model(path)


def test_a_model_with_code_in_it_is_refused(tmp_path):
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Lambda(lambda x: x + 1, output_shape=(8, 8, 3))(pixels)
    model = keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    model.save(tmp_path / "model.keras")
    with pytest.raises(UnreadableFileError, match="arbitrary code execution"):
        load_model(tmp_path / "model.keras")


def test_a_model_that_names_a_function_of_the_system_is_refused(tmp_path, saved):
    path, here = tmp_path / "model.keras", tmp_path / "opened"
    attack = {
        "module": "os",
        "class_name": "system",
        "config": {"command": f"touch {here}"},
        "registered_name": "system",
    }
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(path, "w") as forged:
        for name in whole.namelist():
            forged.writestr(name, json.dumps(attack) if name == "config.json" else whole.read(name))
    with pytest.raises(UnreadableFileError):
        load_model(path)
    assert not here.exists()


def test_no_pickle_is_read_anywhere():
    package = pathlib.Path(parl_tf.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in ("pickle", "marshal", "eval(", "exec(", "allow_pickle=True", "joblib"):
            assert word not in text, (path, word)


def test_a_folder_of_another_is_not_written_into(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ExistingRunError):
        begin_run(tmp_path, run_config())
