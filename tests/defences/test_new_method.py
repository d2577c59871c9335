"""The walk through adding a method in CONTRIBUTING.md, done as it is written there."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_a_method_added_as_written_passes_the_contract_tests(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    chapter = text.split("## Adding a training method")[1].split("\n## ")[0]
    places = re.findall(r"In `(parl_tf/[^`]+)`", chapter)
    blocks = re.findall(r"```python\n(.*?)```", chapter, re.DOTALL)
    assert [len(places), len(blocks)] == [2, 2]

    for folder in ("parl_tf", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    (tmp_path / places[0]).write_text(blocks[0], encoding="utf-8")
    registry = tmp_path / places[1]
    entries = registry.read_text(encoding="utf-8")
    registry.write_text(entries.replace("    },\n)", f"{blocks[1]}    }},\n)"), encoding="utf-8")

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "tests/defences/test_defences.py",
            "-k",
            "disagreement",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = int(re.search(r"(\d+) passed", done.stdout).group(1))
    contract = (ROOT / "tests" / "test_defences.py").read_text(encoding="utf-8")
    assert passed >= contract.count('@pytest.mark.parametrize("method", EACH_METHOD)') > 5

    listed = subprocess.run(
        [sys.executable, "-m", "parl_tf.cli.train", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "disagreement" in listed.stdout
