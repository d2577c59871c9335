"""The command line tools, as setup.cfg and `python -m parl_tf_tools TOOL` start them.

`import parl_tf` imports TensorFlow and registers every class with Keras, which takes seconds. A
tool should print its `--help` at once, so tools start outside of the package: what passes through
here imports TensorFlow after it has parsed its arguments.
"""

import importlib
import sys
from collections.abc import Sequence

TOOLS = ("train", "attack", "diversity", "report", "reproduce", "quickstart")

is_tool = False
"""Whether this process runs a tool. `parl_tf` then imports its public names on first use."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool that the first argument names with the others; returns its exit status.

    Args:
        arguments: Name of the tool and its arguments; None for those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in TOOLS:
        print(f"usage: python -m parl_tf_tools {{{','.join(TOOLS)}}} ...", file=sys.stderr)
        return 2
    return _run(given[0], given[1:])


def train() -> int:
    """parl-train."""
    return _run("train")


def attack() -> int:
    """parl-attack."""
    return _run("attack")


def diversity() -> int:
    """parl-diversity."""
    return _run("diversity")


def report() -> int:
    """parl-report."""
    return _run("report")


def reproduce() -> int:
    """parl-reproduce."""
    return _run("reproduce")


def quickstart() -> int:
    """parl-quickstart."""
    return _run("quickstart")


def _run(tool: str, arguments: Sequence[str] | None = None) -> int:
    """Runs a tool with arguments, those of the process by default."""
    global is_tool
    is_tool = True
    return importlib.import_module(f"parl_tf.cli.{tool}").main(arguments)


if __name__ == "__main__":
    from parl_tf_tools import main as _main  # the module that `parl_tf` finds, not __main__

    sys.exit(_main())
