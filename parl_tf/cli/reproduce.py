"""parl-reproduce: trains, attacks and reports a whole grid of experiments."""

import argparse
import datetime
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from parl_tf.arguments import check_choice
from parl_tf.cli.common import positive_int, run
from parl_tf.cli.output import Parser
from parl_tf.errors import InputError
from parl_tf.reproduction.grid import SCALES, Job, grid_file, plan, read_grid, select


def parser() -> argparse.ArgumentParser:
    """The arguments of parl-reproduce."""
    tool = Parser(
        prog="parl-reproduce",
        description="Trains the surrogates and every method and setting of the paper's tables, "
        "attacks them, measures their diversity and writes the report. Finished jobs are not "
        "repeated: after an interruption the same command continues.",
    )
    which = tool.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--scale",
        metavar="SCALE",
        help=f"{', '.join(SCALES)}: digits in minutes; CIFAR-10 for two epochs, about two days on "
        "two CPU cores; all of CIFAR-10 and CIFAR-100, for GPUs",
    )
    which.add_argument("--grid", metavar="FILE.toml", help="your own grid")
    tool.add_argument("--out", metavar="DIR", help="output folder; default: runs/SCALE")
    tool.add_argument("--data-dir", metavar="DIR", help="folder of tensorflow-datasets")
    tool.add_argument(
        "--only",
        nargs="+",
        metavar="PATTERN",
        help="jobs to run: a kind (train, attack, diversity, report) or a pattern of names such "
        "as 'train/*/parl7-*'",
    )
    tool.add_argument(
        "--jobs",
        type=positive_int,
        default=1,
        metavar="N",
        help="jobs at a time, default: 1; each keeps to its share of the cores. Another N is "
        "another number of threads, which rounds otherwise",
    )
    tool.add_argument(
        "--list",
        action="store_true",
        help="print a shell command for each job, for xargs or a SLURM array; run the kinds in "
        "order: train, attack and diversity, report",
    )
    tool.add_argument(
        "--dry-run", action="store_true", help="print what would be done, with estimated times"
    )
    tool.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run the jobs on a Ray cluster with a shared file system; without an address, on a "
        "new local one (extra ray)",
    )
    tool.add_argument(
        "--cpus-per-job",
        type=positive_int,
        metavar="N",
        help="CPUs that a job reserves with --ray, and threads that it computes with; default: 1",
    )
    tool.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document to standard output, everything else to standard error",
    )
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs parl-reproduce; returns its exit status."""
    arguments = parser().parse_args(argv)
    failed: list[str] = []
    quick = arguments.list or not (arguments.dry_run or arguments.ray is not None)
    status = run(
        lambda: _reproduce(arguments, failed), print_json=arguments.json, tensorflow=not quick
    )
    return status or int(bool(failed))


def _reproduce(arguments: argparse.Namespace, failed: list[str]) -> dict[str, Any]:
    """Plans the jobs, and runs or prints them."""
    if arguments.cpus_per_job and arguments.ray is None:
        raise InputError("--cpus-per-job applies only to --ray. For this machine, use --jobs.")
    if arguments.scale:
        check_choice("scale", arguments.scale, SCALES)
    file = grid_file(arguments.scale) if arguments.scale else pathlib.Path(arguments.grid)
    grid = read_grid(file)
    out = pathlib.Path(arguments.out or pathlib.Path("runs", arguments.scale or file.stem))
    if out.exists() and not out.is_dir():
        raise InputError(f"Expected a folder for --out. Received: {out}, a file.")
    jobs = select(plan(grid, out, data_dir=arguments.data_dir), arguments.only)
    if arguments.list:
        for job in jobs:
            print(job.command)
        return {"jobs": [_as_json(job) for job in jobs]}
    if arguments.dry_run:
        return _estimate(jobs, out)
    return _run(arguments, jobs, out, failed)


def _run(
    arguments: argparse.Namespace, jobs: Sequence[Job], out: pathlib.Path, failed: list[str]
) -> dict[str, Any]:
    """Runs the jobs and prints their states."""
    from parl_tf.reproduction.scheduling import (
        FAILED,
        execute_here,
        execute_on_ray,
        log_of,
        run_jobs,
    )

    on_ray = arguments.ray is not None
    execute, workers = (
        execute_on_ray(arguments.ray or None, arguments.cpus_per_job or 1)
        if on_ray
        else (execute_here(arguments.jobs), arguments.jobs)
    )
    done = 0

    def show(job: Job, state: str) -> None:
        nonlocal done
        done += state != "running"
        clock = datetime.datetime.now().strftime("%H:%M:%S")
        print(f"{clock} [{done}/{len(jobs)}] {job.name}: {state}", file=sys.stderr, flush=True)
        if state == FAILED:
            log = log_of(job, out)
            last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
            print("\n".join(f"    {line}" for line in last), file=sys.stderr)
            print(f"    full log: {log}", file=sys.stderr, flush=True)

    outcome = run_jobs(jobs, out, execute, workers=workers, on_change=show)
    failed += [name for name, state in outcome.items() if state == FAILED]
    page = out / "report" / "index.html"
    if failed:
        print(f"Failed: {', '.join(failed)}. Run the same command to try again.")
    elif page.exists():
        print(f"Report: {page}")
    return {"out": str(out), "jobs": outcome}


def _estimate(jobs: Sequence[Job], out: pathlib.Path) -> dict[str, Any]:
    """Prints the jobs with their estimated durations."""
    from parl_tf.cli.display import print_table
    from parl_tf.cli.estimates import seconds
    from parl_tf.reproduction.scheduling import is_done

    estimates = {job.name: 0.0 if is_done(job, out) else seconds(job) for job in jobs}
    rows = [
        [job.tool, job.name, "done" if not estimates[job.name] else _time(estimates[job.name])]
        for job in jobs
    ]
    print_table(f"Jobs into {out}", ["kind", "job", "two CPU cores"], rows)
    print(f"{_time(sum(estimates.values()))} in total on two CPU cores, roughly; a GPU is faster.")
    return {"jobs": [{**_as_json(job), "seconds": estimates[job.name]} for job in jobs]}


def _as_json(job: Job) -> dict[str, Any]:
    """A job as a JSON document."""
    return {"name": job.name, "command": job.command, "output": str(job.output)}


def _time(seconds: float) -> str:
    """A duration for people."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "under a minute"
    if minutes < 90:
        return f"{minutes} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


if __name__ == "__main__":
    sys.exit(main())
