"""How long a process takes to import the package, and a tool to print its help."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import timing

_TOOLS = ("parl-train", "parl-attack", "parl-diversity", "parl-report", "parl-reproduce")


def measure(rounds: int) -> Iterator[dict[str, Any]]:
    """A row for every process, started anew each time."""
    tools = pathlib.Path(sys.executable).parent
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "import tensorflow": [sys.executable, "-c", "import tensorflow"],
        "import keras": [sys.executable, "-c", "import keras"],
        "import parl_tf": [sys.executable, "-c", "import parl_tf"],
        **{f"{tool} --help": [str(tools / tool), "--help"] for tool in _TOOLS},
    }
    calls = {
        name: lambda command=command: subprocess.run(command, check=True, capture_output=True)
        for name, command in commands.items()
    }
    for name, seconds in timing.alternate(calls, rounds).items():
        yield {"process": name, **timing.summary(seconds)}
