"""The walks through adding something in CONTRIBUTING.md, done as they are written there."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def package_with(tmp_path):
    """Copies the package and adds what a chapter says: a file, and an entry in a registry."""

    def add(chapter):
        text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
        walk = text.split(f"## {chapter}\n")[1].split("\n## ")[0]
        places = re.findall(r"\bIn\s`(parl_tf/[^`]+)`", walk)
        blocks = re.findall(r"```python\n(.*?)```", walk, re.DOTALL)
        assert [len(places), len(blocks)] == [2, 2]
        for folder in ("parl_tf", "tests"):
            shutil.copytree(ROOT / folder, tmp_path / folder)
        for file in ("setup.cfg", "parl_tf_tools.py"):
            shutil.copy(ROOT / file, tmp_path)
        new, registry = (tmp_path / place for place in places)
        assert not new.exists()
        new.write_text(blocks[0], encoding="utf-8")
        entries = registry.read_text(encoding="utf-8")
        assert entries.count("    }\n)") + entries.count("    },\n)") == 1
        extended = re.sub(r"    \}(,?)\n\)", rf"{blocks[1]}    }}\1\n)", entries)
        registry.write_text(extended, encoding="utf-8")
        return tmp_path

    return add


def python(folder, *arguments):
    path = os.pathsep.join([str(folder), str(folder / "tests")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def passed_tests(folder, *arguments):
    done = python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.search(r"(\d+) passed", done.stdout).group(1))


@pytest.mark.slow
def test_a_method_added_as_written_passes_the_contract_tests(package_with):
    folder = package_with("Adding a training method")
    passed = passed_tests(folder, "tests/defences/test_defences.py", "-k", "disagreement")
    contract = (ROOT / "tests" / "defences" / "test_defences.py").read_text(encoding="utf-8")
    assert passed >= contract.count('@pytest.mark.parametrize("method", EACH_METHOD)') > 5
    listed = python(folder, "-m", "parl_tf_tools", "train", "--help")
    assert "disagreement" in listed.stdout


@pytest.mark.slow
def test_a_network_added_as_written_is_trained_by_the_tool(package_with):
    folder = package_with("Adding a network")
    options = "--method parl --num-layers 7 --network plain --dataset digits --train-examples 64"
    options += " --batch-size 32 --epochs 1 --seed 0 --out run"
    done = python(folder, "-m", "parl_tf_tools", "train", *options.split())
    assert done.returncode == 0, done.stdout + done.stderr
    code = (
        "import keras, parl_tf\n"
        "member = parl_tf.load_model('run')[0].members[0]\n"
        "layers = [layer for layer in member.layers if isinstance(layer, keras.layers.Conv2D)]\n"
        "print(*[layer.filters for layer in layers])"
    )
    assert python(folder, "-c", code).stdout.split() == ["16", "16", "16", "32", "32", "64", "64"]


@pytest.mark.slow
def test_an_attack_added_as_written_passes_the_contract_tests(package_with):
    folder = package_with("Adding an attack")
    passed = passed_tests(
        folder, "tests/attacks/test_attacks.py", "tests/attacks/test_entries.py", "-k", "corner"
    )
    assert passed >= 5


def test_a_table_added_as_written_is_in_the_report(package_with):
    folder = package_with("Adding a table")
    code = (
        "import parl_tf_tools\nparl_tf_tools.is_tool = True\n"  # without TensorFlow
        "import pathlib\nfrom harness.report_records import card, record, write_records\n"
        "half = record(target=card('parl7', 0), tied=[0.5])\n"
        "write_records([half], pathlib.Path('results.json'))\n"
        "from parl_tf.report import write_report\n"
        "write_report('results.json', 'report')"
    )
    done = python(folder, "-c", code)
    assert done.returncode == 0, done.stderr
    lines = (folder / "report" / "ties.md").read_text(encoding="utf-8").splitlines()
    assert "| PARL/7 | 50.0 |" in lines
    assert "Tied votes on clean images" in (folder / "report" / "index.html").read_text("utf-8")


# Files of the same walks before the package had subpackages.
WALKS = {
    "A batch of pixels to the optimizer": 16,
    "`--num-layers` to the loss": 9,
    "An epsilon to a figure": 19,
}


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_names_files_that_are_there_and_is_shorter_than_it_was(walk):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (paragraph,) = [part for part in text.split("\n\n") if part.startswith(f"**{walk}**")]
    files = re.findall(r"`([\w/]+\.py)`", paragraph)
    assert 5 <= len(files) == len(set(files)) < WALKS[walk]
    for file in files:
        assert (ROOT / "parl_tf" / file).is_file(), file
