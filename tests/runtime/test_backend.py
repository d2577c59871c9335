import os
import subprocess
import sys
import types

import pytest

from parl_tf.errors import BackendError
from parl_tf.runtime.backend import check_backend
from parl_tf_tools import TOOLS


def python(*arguments, cwd=None, **environment):
    """A process of its own, under other environment variables."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )


@pytest.fixture
def before_keras(monkeypatch, tmp_path):
    """As if Keras were not imported, nor configured."""
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return monkeypatch


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy", "openvino", "Tensorflow"])
def test_another_backend_in_the_environment_is_refused(before_keras, backend):
    before_keras.setenv("KERAS_BACKEND", backend)
    with pytest.raises(BackendError, match=f"KERAS_BACKEND is '{backend}': set it to tensorflow"):
        check_backend()


def test_another_backend_in_the_configuration_file_is_refused(before_keras, tmp_path):
    file = tmp_path / "keras.json"
    file.write_text('{"floatx": "float32", "backend": "torch"}')
    with pytest.raises(BackendError, match=rf"{file} says 'torch': .* KERAS_BACKEND=tensorflow"):
        check_backend()
    before_keras.setenv("KERAS_BACKEND", "")  # as Keras goes by it, nothing
    with pytest.raises(BackendError, match="says 'torch'"):
        check_backend()
    before_keras.setenv("KERAS_BACKEND", "tensorflow")
    check_backend()


def test_the_configuration_file_is_looked_for_where_keras_does(before_keras, tmp_path):
    before_keras.delenv("KERAS_HOME")
    before_keras.setenv("HOME", str(tmp_path))
    check_backend()
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text('{"backend": "jax"}')
    with pytest.raises(BackendError, match="says 'jax'"):
        check_backend()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"floatx": "float32"}', '{"backend": "tensorflow"}']
)
def test_a_file_that_chooses_no_other_is_left_to_keras(before_keras, tmp_path, text):
    (tmp_path / "keras.json").write_text(text)
    check_backend()


def test_what_keras_was_imported_with_decides(before_keras):
    config = types.SimpleNamespace(backend=lambda: "tensorflow")
    before_keras.setitem(sys.modules, "keras", types.SimpleNamespace(config=config))
    before_keras.setenv("KERAS_BACKEND", "jax")  # too late to matter
    check_backend()
    config.backend = lambda: "torch"
    before_keras.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(BackendError, match="imported here with 'torch'.* in a new process"):
        check_backend()


@pytest.mark.parametrize(
    "statement",
    [
        "import parl_tf",
        "import parl_tf.cli.train",
        "from parl_tf.defences.parl import PARL",
    ],
)
def test_import_ends_in_one_sentence(statement):
    ended = python("-c", statement, KERAS_BACKEND="jax")
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 1
    assert last.startswith("parl_tf.errors.BackendError: parl_tf needs Keras with the backend")
    assert "set it to tensorflow" in last
    assert "No module named" not in ended.stderr
    assert issubclass(BackendError, ImportError)


def test_tools_end_with_the_status_of_usage_and_leave_nothing(tmp_path):
    out = tmp_path / "out"
    arguments = {
        "train": ["--method", "parl", "--dataset", "digits", "--out", out],
        "attack": ["--target", "run", "--out", out],
        "diversity": ["--target", "run", "--out", out],
        "report": ["results.json", "--out", out],
        "reproduce": ["--scale", "smoke", "--out", out],
        "quickstart": [],
    }
    assert set(arguments) == set(TOOLS)
    for tool, given in arguments.items():
        ended = python("-m", "parl_tf_tools", tool, *given, cwd=tmp_path, KERAS_BACKEND="torch")
        assert ended.returncode == 2, tool
        assert ended.stderr.startswith("error: parl_tf needs Keras with the backend"), tool
        assert len(ended.stderr.splitlines()) == 1, tool
        assert list(tmp_path.iterdir()) == [], tool
