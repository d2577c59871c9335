import fcntl
import subprocess
import sys

import pytest

from parl_tf.errors import ExistingRunError
from parl_tf.training.locks import locked

HOLD = """
import sys
from parl_tf.training.locks import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    folder = tmp_path / "run"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], **pipes) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ExistingRunError, match="Another process is using"), locked(folder):
            pass
        other.kill()
    with locked(folder):
        pass


def test_one_that_is_refused_leaves_the_folder_of_the_other(tmp_path):
    folder = tmp_path / "run"
    with locked(folder):
        inode = folder.stat().st_ino
        for _ in range(2):
            with pytest.raises(ExistingRunError), locked(folder):
                pass
        assert folder.stat().st_ino == inode


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*arguments):
        raise OSError("No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        assert "cannot be locked" in caplog.text


def test_a_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("parl_tf.training.locks.fcntl", None)
    with locked(tmp_path):
        assert "cannot be locked" in caplog.text
