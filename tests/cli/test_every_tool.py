"""What holds for every tool, as a user runs it."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from parl_tf.cli import attack, diversity, report, train
from parl_tf.cli.common import finite
from parl_tf.cli.method_options import method_options


def test_every_number_may_be_a_fraction():
    for tool in (train, attack, diversity, report):
        kinds = {action.dest: action.type for action in tool.parser()._actions}
        assert not {float, int} & set(kinds.values())  # these take no fractions
        assert finite in kinds.values()
    arguments = train.parser().parse_args(
        [
            *("--adversarial-training", "--adversarial-epsilon", "4/255"),
            *("--adversarial-step-size", "1/255", "--learning-rate", "1/1000"),
            *("--method", "unprotected", "--dataset", "digits", "--out", "run"),
        ]
    )
    assert method_options(arguments) == {
        "adversarial_training": {"epsilon": 4 / 255, "step_size": 1 / 255}
    }
    assert arguments.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (signal.SIGTERM, 143, "terminated"),
        pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_tool_in_order(number, status, message):
    code = (
        "import signal, sys, time\n"
        "from parl_tf.cli.common import run\n"
        # What a shell starts in the background ignores it, and so do its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def body():\n"
        "    try:\n"
        "        print('at work', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('put away', flush=True)\n"
        "sys.exit(run(body, print_json=False, tensorflow=False))\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert process.stdout.readline() == "at work\n"
    process.send_signal(number)
    printed, error = process.communicate()
    assert (process.returncode, printed) == (status, "put away\n")
    assert message in error
    assert "Traceback" not in error


def test_scripts_of_the_repository_are_executable():
    root = pathlib.Path(__file__).parents[2]
    for name in (
        "bin/quickstart",
        "bin/test",
        "bin/parl-train",
        "bin/parl-attack",
        "bin/parl-diversity",
        ".ci/run",
    ):
        assert os.access(root / name, os.X_OK), name
