import errno
import hashlib
import os
import stat
import subprocess
import sys

import pytest

from parl_tf.files import atomic_replacement, sha256_of, write_atomic, write_json


def test_what_was_there_is_replaced_and_nothing_else_left(tmp_path):
    path = tmp_path / "results.json"
    for document in ({"a": 1}, {"b": [2.5, None]}):
        write_json(path, document)
    assert path.read_text() == '{\n "b": [\n  2.5,\n  null\n ]\n}\n'
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError("no")])
def test_what_was_there_stays_when_writing_fails(tmp_path, error):
    path = tmp_path / "model.keras"
    write_atomic(path, b"before")

    def fail():
        with atomic_replacement(path) as partial:
            assert partial.parent == tmp_path
            assert partial.suffix == ".keras"
            partial.write_bytes(b"after, as far as")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["model.keras"]


def test_what_was_there_stays_until_the_new_one_is_on_the_disk(tmp_path, monkeypatch):
    path, events = tmp_path / "file", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append("fsync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *a: events.append("replace") or replace(*a))
    write_atomic(path, b"content")
    assert events == ["fsync", "replace", "fsync"]


def test_numbers_that_json_has_not_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"loss": float("nan")})
    assert not os.listdir(tmp_path)


def test_a_file_that_does_not_fit_is_an_error_that_says_so(tmp_path):
    code = """
import resource, signal, sys
import parl_tf_tools
parl_tf_tools.is_tool = True  # without TensorFlow
from parl_tf.files import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
write_atomic(sys.argv[1], b"before")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(sys.argv[1], bytes(2000))
except OSError as error:
    print(error)
"""
    path = tmp_path / "model.keras"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert f"No space left for {path}" in done.stdout, done.stderr
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["model.keras"]


def test_sha256_of_a_file_larger_than_its_blocks(tmp_path):
    content = bytes(range(256)) * 9000
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_file_system_that_does_not_wait_for_folders_is_no_error(tmp_path, monkeypatch):
    synchronize = os.fsync

    def refuse_folders(opened):
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        synchronize(opened)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_atomic(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
