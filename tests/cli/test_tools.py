"""How the command line tools start: at once, from outside of the package."""

import configparser
import os
import pathlib
import subprocess
import sys

import pytest

import parl_tf_tools
from parl_tf_tools import TOOLS

ROOT = pathlib.Path(__file__).parents[2]


def python(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_every_entry_point_starts_outside_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].split("\n")
    scripts = dict(line.split(" = ") for line in filter(None, lines))
    assert scripts == {f"parl-{tool}": f"parl_tf_tools:{tool}" for tool in TOOLS}
    assert all(callable(getattr(parl_tf_tools, tool)) for tool in TOOLS)
    assert "parl_tf_tools" in setup["options"]["py_modules"].split()


@pytest.mark.parametrize("tool", TOOLS)
def test_help_waits_for_no_tensorflow_and_minds_no_backend(tool):
    code = (
        "import parl_tf_tools, sys\n"
        f"try:\n    parl_tf_tools.{tool}()\n"
        "finally:\n    assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)\n"
    )
    ended = python(code, "--help", KERAS_BACKEND="jax")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"usage: parl-{tool}")


def test_a_report_needs_no_tensorflow():
    code = (
        "import parl_tf_tools, sys\nparl_tf_tools.is_tool = True\n"
        "import parl_tf.cli.report, parl_tf.report.page.writing\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    ended = python(code)
    assert ended.returncode == 0, ended.stderr


def test_a_tool_that_is_not_there_is_a_mistake_of_usage():
    for given in ([], ["trian", "--help"]):
        ended = subprocess.run(
            [sys.executable, "-m", "parl_tf_tools", *given], capture_output=True, text=True
        )
        assert ended.returncode == 2
        assert ended.stderr.startswith("usage: python -m parl_tf_tools {train,attack,")


def test_in_a_tool_a_public_name_is_imported_on_first_use():
    code = (
        "import parl_tf_tools, sys\n"
        "parl_tf_tools.is_tool = True\n"
        "import parl_tf\n"
        "assert 'keras' not in sys.modules\n"
        "assert not hasattr(parl_tf, 'nothing')\n"
        "assert 'keras' not in sys.modules\n"
        "from parl_tf import PARL\n"
        "from parl_tf.defences.parl import PARL as same\n"
        "assert PARL is same is parl_tf.PARL\n"
        "assert set(parl_tf.__all__) <= set(vars(parl_tf))\n"
    )
    ended = python(code)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_as_a_module_of_the_package_a_tool_works_too():
    ended = subprocess.run(
        [sys.executable, "-m", "parl_tf.cli.train", "--help"], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("usage: parl-train")
