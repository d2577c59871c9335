import fcntl
import os
import subprocess
import sys

import pytest

from parl_tf.errors import ExistingRunError
from parl_tf.locks import locked

HOLD = """
import sys
from parl_tf.locks import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    folder = tmp_path / "run"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], **pipes) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ExistingRunError, match="Another process is at work in"), locked(folder):
            pass
        other.kill()
    with locked(folder):
        pass


def test_a_folder_that_stays_empty_is_not_left_behind(tmp_path):
    with locked(tmp_path / "empty"):
        assert (tmp_path / "empty").is_dir()
    assert not (tmp_path / "empty").exists()
    with locked(tmp_path / "full"):
        (tmp_path / "full" / "file").touch()
    with locked(tmp_path / "full"):
        pass
    assert os.listdir(tmp_path / "full") == ["file"]
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*arguments):
        raise OSError("No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        assert "cannot be locked" in caplog.text


def test_a_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("parl_tf.locks.fcntl", None)
    with locked(tmp_path):
        assert "cannot be locked" in caplog.text
