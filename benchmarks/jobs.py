"""Two trainings, one after the other on all cores and at the same time on half of them each."""

import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import timing

_TRAINING = "--network resnet20 --train-examples 512 --epochs 2 --batch-size 64"


def measure(rounds: int, options: str = _TRAINING) -> Iterator[dict[str, Any]]:
    """A row for one job at a time and one for two: the time until both trainings are done."""
    calls = {
        "1": lambda: _train_both(1, options),
        "2": lambda: _train_both(2, options),
    }
    seconds = timing.alternate(calls, rounds, warmup=0)
    for workers, each in seconds.items():
        times, spread = timing.ratio(each, seconds["1"])
        yield {
            "jobs_at_a_time": int(workers),
            **timing.summary(each),
            "times_in_a_row": times,
            "spread_of_times": spread,
        }


def _train_both(workers: int, options: str) -> None:
    """Trains two unprotected ensembles on digits, as parl-reproduce does."""
    from parl_tf.reproduction.grid import Job
    from parl_tf.reproduction.scheduling import execute_here, log_of, run_jobs

    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        given = ["--dataset", "digits", "--method", "unprotected", *options.split()]
        trainings = [
            Job(
                name=f"train/{seed}",
                tool="train",
                arguments=(*given, "--seed", str(seed), "--out", str(out / str(seed))),
                output=out / str(seed),
                needs=(),
                always=False,
            )
            for seed in range(2)
        ]
        states = run_jobs(trainings, out, execute_here(workers), workers=workers)
        for job in trainings:
            if states[job.name] != "done":
                raise RuntimeError(log_of(job, out).read_text(encoding="utf-8"))
