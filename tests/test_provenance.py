"""Which commit a run is of."""

import shutil
import subprocess

import pytest

from parl_tf import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Makes a repository the checkout that the package is run from; returns what runs git in it."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]

    def git(*arguments):
        command = ["git", *identity, "-C", tmp_path, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "--quiet", "-m", "first")
    git("tag", "-a", "v1", "-m", "a tag that is no commit")
    monkeypatch.setattr(provenance, "_CHECKOUT", tmp_path)
    provenance.commit.cache_clear()
    yield git
    provenance.commit.cache_clear()


def test_the_commit_of_a_checkout_says_whether_tracked_files_were_changed(checkout, tmp_path):
    head = checkout("rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("not tracked")
    assert provenance.commit() == head
    (tmp_path / "code.py").write_text("2")
    assert provenance.commit() == head, "asked for once a process"
    provenance.commit.cache_clear()
    assert provenance.commit() == f"{head}-dirty"


def test_variables_of_another_repository_are_not_followed(checkout, tmp_path, monkeypatch):
    head = checkout("rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert provenance.commit() == head


def test_an_installed_package_has_no_commit_whatever_lies_around_it(
    checkout, tmp_path, monkeypatch
):
    installed = tmp_path / "site-packages"
    installed.mkdir()
    monkeypatch.setattr(provenance, "_CHECKOUT", installed)
    assert provenance.commit() is None


def test_without_git_or_a_readable_repository_there_is_none(checkout, tmp_path, monkeypatch):
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        assert provenance.commit() is None
    shutil.rmtree(tmp_path / ".git" / "objects")
    provenance.commit.cache_clear()
    assert provenance.commit() is None
