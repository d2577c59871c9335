"""The command line tools, in processes of their own."""

import pathlib
import subprocess
import sys

SCRIPTS = pathlib.Path(sys.executable).parent
TRAIN = [
    *("--dataset", "digits", "--members", "2", "--epochs", "1", "--train-examples", "64"),
    *("--batch-size", "32", "--network", "resnet8"),
]
ATTACK = [
    *("--num-examples", "12", "--num-steps", "2", "--restarts", "2", "--batch-size", "12"),
    *("--epsilon", "0.05", "0.1"),
]


def run(tool, *arguments, **options):
    """Runs a console script in a process of its own."""
    return subprocess.run(
        [SCRIPTS / tool, *map(str, arguments)], capture_output=True, text=True, **options
    )
