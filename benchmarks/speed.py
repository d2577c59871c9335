"""Every timing that benchmarks/results.md speaks of, side by side.

    python benchmarks/speed.py --out runs/speed

Candidates are called in turn, forwards and backwards, after warm-up; printed are medians,
interquartile ranges and the least, which other work on the machine changes least. A training step
has a process of its own, which also gives its peak memory and the time of its first step, and is
called in turn with the unprotected one. The folder gets `speed.json` and `speed.md`, rewritten
after every row: what was measured is kept when it is interrupted. Everything takes some hours on
two cores; --only and the other options choose a part. Nothing else should run meanwhile.
"""

import argparse
import datetime
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import sys
from collections.abc import Iterator
from typing import Any

import crafting
import floor
import growth
import jobs
import peers
import pipeline
import shapes
import startup
import steps

SUITES = (
    "startup",
    "pipeline",
    "steps",
    "peers",
    "attacks",
    "floor",
    "shapes",
    "members",
    "layers",
    "images",
    "jobs",
)


def main() -> None:
    """Measures what is asked for and writes it after each row."""
    tool = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tool.add_argument("--only", nargs="+", choices=SUITES, default=SUITES)
    tool.add_argument("--methods", nargs="+", default=[], help="first letters of candidates")
    tool.add_argument("--attacks", nargs="+", default=[], help="first letters of attacks")
    tool.add_argument("--layers", nargs="+", type=int, default=[3, 5, 7])
    tool.add_argument("--members", nargs="+", type=int, default=[2, 3, 4, 6, 8])
    tool.add_argument("--batch-sizes", nargs="+", type=int, default=[64, 128])
    tool.add_argument("--xla", choices=("off", "on", "both"), default="both")
    tool.add_argument("--attack-batch-sizes", nargs="+", type=int, default=[1, 64, 250])
    tool.add_argument("--attack-steps", type=int, default=50)
    tool.add_argument(
        "--torch-python", default=sys.executable, help="a Python that has PyTorch, for peers"
    )
    tool.add_argument("--rounds", type=int, default=7)
    tool.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/speed"))
    arguments = tool.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {}
    for suite in arguments.only:
        for row in _rows(suite, arguments):
            rows.setdefault(suite, []).append(row)
            print(suite, json.dumps(row), flush=True)
            _write(arguments.out, rows)


def _rows(suite: str, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of one suite."""
    if suite == "startup":
        return startup.measure(given.rounds)
    if suite == "pipeline":
        return pipeline.measure(given.batch_sizes, given.rounds)
    if suite == "steps":
        xla = {"off": [False], "on": [True], "both": [False, True]}[given.xla]
        options = (given.layers, given.batch_sizes, xla, given.rounds, given.methods)
        return steps.measure(*options)
    if suite == "peers":
        return peers.measure(given.batch_sizes, given.rounds, given.torch_python)
    if suite == "attacks":
        options = (given.attack_batch_sizes, given.attack_steps, given.rounds, given.attacks)
        return itertools.chain(crafting.measure(*options), crafting.measure_others(*options))
    if suite == "floor":
        options = (given.layers, given.batch_sizes, given.rounds, given.methods)
        attacks = floor.measure(given.attack_batch_sizes, given.rounds)
        return itertools.chain(attacks, floor.measure_steps(*options))
    if suite == "shapes":
        return shapes.measure(given.batch_sizes, given.rounds)
    if suite == "members":
        return growth.members(given.members, given.batch_sizes[0], given.rounds)
    if suite == "layers":
        return growth.layers([1, 3, 5, 7, 11, 15, 19], given.batch_sizes[0], given.rounds)
    if suite == "images":
        return growth.images([250, 500, 1000, 2000], given.rounds)
    return jobs.measure(given.rounds)


def _machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    packages = ("parl_tf", "tensorflow", "keras", "cleverhans", "numpy")
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    """The processor's name, where Linux says it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _write(folder: pathlib.Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Writes what was measured so far, as JSON and as tables."""
    machine = _machine()
    document = {"machine": machine, **rows}
    (folder / "speed.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    lines = [", ".join(f"{key} {value}" for key, value in machine.items()), ""]
    for suite, measured in rows.items():
        columns = list(dict.fromkeys(column for row in measured for column in row))
        lines += [f"## {suite}", "", _line(column.replace("_", " ") for column in columns)]
        lines.append(_line("---" for _ in columns))
        lines += [_line(str(row.get(column, "")) for column in columns) for row in measured]
        lines.append("")
    (folder / "speed.md").write_text("\n".join(lines), encoding="utf-8")


def _line(cells) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
