"""oneDNN's kernels: on in the tools unless the user has decided, and written down."""

import os
import platform
import subprocess
import sys

import pytest
from harness.marks import slow_except

from parl_tf.provenance import versions
from parl_tf.runtime.onednn import prefer_onednn, uses_onednn

IN_A_TOOL = """
import parl_tf_tools
parl_tf_tools.is_tool = True
from parl_tf.cli.common import start_tensorflow
start_tensorflow()
from parl_tf.provenance import versions
print(versions()["oneDNN"])
"""


def in_a_tool(**environment):
    """What a tool writes down."""
    kept = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    ended = subprocess.run(
        [sys.executable, "-c", IN_A_TOOL],
        env={**kept, **environment},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.parametrize(
    ("machine", "given", "found"),
    [
        ("x86_64", None, "1"),
        ("AMD64", None, "1"),
        ("x86_64", "0", "0"),
        ("aarch64", None, None),
        ("aarch64", "1", "1"),
    ],
)
def test_it_is_preferred_on_x86_unless_the_user_has_decided(monkeypatch, machine, given, found):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "unset")  # restored afterwards
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    if given is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    prefer_onednn()
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == found


def test_what_is_in_force_is_among_the_versions():
    assert versions()["oneDNN"] == ("on" if uses_onednn() else "off")


@pytest.mark.parametrize(("given", "found"), slow_except([("0", "off"), ("1", "on")], ("0", "off")))
def test_a_tool_keeps_to_what_the_user_has_decided_and_writes_it_down(given, found):
    assert in_a_tool(TF_ENABLE_ONEDNN_OPTS=given) == found


@pytest.mark.slow
def test_a_tool_uses_it_by_itself_on_x86():
    assert platform.machine().lower() not in ("x86_64", "amd64") or in_a_tool() == "on"
