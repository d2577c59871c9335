"""parl-quickstart: training, attacks and a table on digits, with the command line tools."""

import pathlib
import shlex
import sys
import time
from collections.abc import Sequence

from parl_tf.cli import attack, train
from parl_tf.cli.common import run
from parl_tf.cli.output import Parser

_FOLDER = pathlib.Path("runs", "quickstart")
_TRAINING = shlex.split("--dataset digits --train-examples 800 --epochs 5 --batch-size 16")
# The surrogate is the attacker's: unprotected, and with a seed of its own.
_RUNS = {
    "surrogate": shlex.split("--method unprotected --seed 1"),
    "unprotected": shlex.split("--method unprotected --seed 0"),
    "parl": shlex.split("--method parl --num-layers 3 --seed 0"),
}
_ATTACK = shlex.split("--epsilon 0.05 0.1 0.15 --num-examples 64 --num-steps 10 --restarts 2")


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, attacks, prints the table and draws the figure; returns an exit status."""
    Parser(
        prog="parl-quickstart",
        description=f"Trains, attacks and reports on handwritten digits, into {_FOLDER}.",
    ).parse_args(argv)
    began = time.monotonic()
    results, figure = _FOLDER / "results.json", _FOLDER / "accuracy.png"
    for name, options in _RUNS.items():
        folder = _FOLDER / name
        if (folder / "model.keras").exists():
            if status := _say(f"{name}: already trained, in {folder}"):
                return status
            continue
        if status := _say(f"parl-train {' '.join([*options, *_TRAINING])} --out {folder}"):
            return status
        results.unlink(missing_ok=True)  # they belong to an earlier run
        if status := train.main([*options, *_TRAINING, "--out", str(folder)]):
            return status
    evaluated = results.exists()
    if not evaluated:
        options = ["--surrogate", str(_FOLDER / "surrogate")]
        for name in ("unprotected", "parl"):
            options += ["--target", str(_FOLDER / name)]
        if status := _say(f"parl-attack {' '.join([*options, *_ATTACK])} --out {results}"):
            return status
        if status := attack.main([*options, *_ATTACK, "--out", str(results)]):
            return status
    seconds = time.monotonic() - began
    return run(lambda: _show(results, figure, evaluated, seconds), print_json=False)


def _show(results: pathlib.Path, figure: pathlib.Path, repeat: bool, seconds: float) -> None:
    """Draws the figure, prints the table if parl-attack did not, and suggests what to do next."""
    from parl_tf.cli.display import print_table
    from parl_tf.report import accuracy_figure, accuracy_table
    from parl_tf.results.files import load_records

    records = load_records(results)
    accuracy_figure(records, figure)
    if repeat:
        title = f"Vote accuracy (%) on {records[0].num_examples} digits, black box"
        print_table(title, *accuracy_table(records))
    print(
        f"""
Done in {seconds:.0f} s. PGD worst is the share of images that survive every restart.

  Figure   {figure}
  Records  {results}
  Runs     {", ".join(str(_FOLDER / name) for name in _RUNS)}
           (kept; 'rm -r {_FOLDER}' to start over)

These ensembles were trained for a minute each. The table shows how the tools work, not how the
methods compare. Next:

  bin/parl-attack --target {_FOLDER / "parl"} --epsilon 0.05 --restarts 2      white box
  bin/parl-train --method parl --dataset cifar10 --data-dir DIR --out runs/parl   the real thing
  bin/parl-train --help
"""
    )


def _say(text: str) -> int:
    """Prints the next step at once; returns an exit status."""
    return run(lambda: print(f"\n== {text}"), print_json=False, tensorflow=False)


if __name__ == "__main__":
    sys.exit(main())
