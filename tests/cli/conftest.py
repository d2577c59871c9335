"""What the tests of several tools use."""

import fcntl
import json
import os
import subprocess

import pytest
from harness.networks import plain_network
from harness.tools import TRAIN, run


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """An unprotected and a PARL run, and what training them printed.

    They are trained once for all of xdist's processes: under pytest 9.2 it ignores its groups.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder, done = folder / "runs", folder / "runs.json"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            printed = {}
            for name, options in {"unprotected": [], "parl": ["--num-layers", "2"]}.items():
                given = ["--method", name, *options, *TRAIN, "--out", folder / name, "--json"]
                trained = run("parl-train", *given)
                printed[name] = [trained.returncode, trained.stdout, trained.stderr]
            done.write_text(json.dumps(printed))
    printed = json.loads(done.read_text())
    return folder, {
        name: subprocess.CompletedProcess(name, *entry) for name, entry in printed.items()
    }


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network.keras"
    plain_network(0).save(path)
    return str(path)
