"""Runs jobs in the order of their dependencies, in parallel, here or on a Ray cluster."""

import concurrent.futures
import contextlib
import json
import pathlib
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from parl_tf.errors import ExistingRunError, InputError, MissingExtraError
from parl_tf.files import write_json
from parl_tf.reproduction.cores import divide, kept_to, usable_cores, with_threads
from parl_tf.reproduction.grid import Job
from parl_tf.training.folders import is_finished

DONE, FAILED, SKIPPED = "done", "failed", "not run"

Execute = Callable[[Job, pathlib.Path], int]
"""Runs a job's command with its output in a file, and returns its exit status."""

_children: set[subprocess.Popen] = set()  # running on this machine


def run_jobs(
    jobs: Sequence[Job],
    out: pathlib.Path,
    execute: Execute,
    *,
    workers: int = 1,
    on_change: Callable[[Job, str], None] | None = None,
) -> dict[str, str]:
    """Runs each job once the jobs it needs are done, and skips those already done.

    If a job fails, only those that need it are not run.

    Args:
        jobs: The jobs; the output of a needed job that is not among them must exist.
        out: Folder of the grid: its `jobs/` records the commands, its `logs/` what they print.
        execute: Runs one job.
        workers: Number of jobs at a time.
        on_change: Called with a job and "running", "done", "failed" or "not run".

    Returns:
        The final state of each job, by name.

    Raises:
        ExistingRunError: The output of a job exists and was made by another command.
    """
    say = on_change or (lambda job, state: None)
    state: dict[str, str] = {}
    waiting = {job.name: job for job in jobs}
    for job in jobs:
        if is_done(job, out):
            state[job.name] = DONE
            del waiting[job.name]
            say(job, DONE)
    running: dict[concurrent.futures.Future, Job] = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool, _ending_together():
        while waiting or running:
            for job in list(waiting.values()):
                needs = [state.get(need, DONE if need not in waiting else "") for need in job.needs]
                if any(need in (FAILED, SKIPPED) for need in needs):
                    state[job.name] = SKIPPED
                    del waiting[job.name]
                    say(job, SKIPPED)
                elif len(running) < workers and all(need == DONE for need in needs):
                    del waiting[job.name]
                    state[job.name] = "running"
                    say(job, "running")
                    running[pool.submit(_run, job, out, execute)] = job
            if not running:
                continue
            finished, _ = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
            for future in finished:
                job = running.pop(future)
                state[job.name] = DONE if future.result() == 0 else FAILED
                say(job, state[job.name])
    return state


def is_done(job: Job, out: pathlib.Path) -> bool:
    """Whether a job's output exists and is complete.

    Raises:
        ExistingRunError: It was made by another command.
    """
    note = _note(job, out)
    if note.is_file():
        found = _read(note).get("command")
        if found != job.command:
            raise ExistingRunError(
                f"{job.name} was made by another command:\n  {found}\nExpected:\n  {job.command}\n"
                f"Use another --out, or remove its output and {note}."
            )
    if job.always:
        return False
    if job.tool == "train":
        return is_finished(job.output)
    return job.output.exists() and (note.is_file() and bool(_read(note).get("done")))


def _run(job: Job, out: pathlib.Path, execute: Execute) -> int:
    """Runs a job and records its command."""
    note, log = _note(job, out), log_of(job, out)
    for path in (note, log):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not job.always:
        write_json(note, {"command": job.command, "done": False})
    status = execute(job, log)
    if status == 0 and not job.always:
        write_json(note, {"command": job.command, "done": True})
    return status


def log_of(job: Job, out: pathlib.Path) -> pathlib.Path:
    """The file with a job's output."""
    return out / "logs" / f"{job.name}.log"


def _note(job: Job, out: pathlib.Path) -> pathlib.Path:
    """The file that records a job's command."""
    return out / "jobs" / f"{job.name}.json"


def _read(note: pathlib.Path) -> dict[str, Any]:
    """The record of an earlier run; empty if it is damaged."""
    try:
        record = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def execute_here(workers: int = 1) -> Execute:
    """Divides this machine's cores among a number of jobs at a time.

    Each job keeps to its own cores, or shares one if there are fewer cores than jobs. All get the
    same number of threads, so that a deterministic job has the same bits on whichever cores it
    runs. One job at a time is given nothing: it takes all cores, as the tool by itself does.

    Args:
        workers: Number of jobs at a time.

    Returns:
        A function that runs a job on cores that no running job has, and gives them back.
    """
    if workers == 1:
        return _execute
    shares = divide(usable_cores(), workers)
    threads = min(len(cores) for cores in shares)
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for cores in shares:
        free.put(cores)

    def execute(job: Job, log: pathlib.Path) -> int:
        cores = free.get()
        try:
            with kept_to(cores):
                return _execute(job, log, threads)
        finally:
            free.put(cores)

    return execute


def _execute(job: Job, log: pathlib.Path, threads: int | None = None) -> int:
    """Runs a job's tool as a subprocess on this machine."""
    command = [sys.executable, "-m", "parl_tf_tools", job.tool, *job.arguments]
    with open(log, "ab") as file:
        file.write(f"$ {job.command}\n".encode())
        file.flush()
        environment = None if threads is None else with_threads(threads)
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _children.add(process)
        try:
            return process.wait()
        finally:
            _children.discard(process)


@contextlib.contextmanager
def _ending_together() -> Iterator[None]:
    """Terminates the running subprocesses if this process is interrupted."""
    try:
        yield
    except BaseException:
        for process in list(_children):
            process.terminate()
        raise


def execute_on_ray(address: str | None, cpus_per_job: int = 1) -> tuple[Execute, int]:
    """Connects to a Ray cluster that shares this machine's file system.

    Args:
        address: Address of the cluster ("auto", "ray://host:port"); None starts one here.
        cpus_per_job: Number of CPUs that a job reserves, and of the threads it computes with.

    Returns:
        A function that runs a job there, and the number of jobs that fit at a time.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: No machine of the cluster has that many CPUs.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            "Ray is not installed. Install it with the extra ray: pip install 'parl_tf[ray]'."
        ) from error
    if not ray.is_initialized():
        options: Mapping[str, Any] = {"include_dashboard": False, "log_to_driver": False}
        ray.init(address=address, **(options if address is None else {"log_to_driver": False}))
    most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes()), default=0)
    if cpus_per_job > most:
        raise InputError(
            f"Expected at most {most} CPUs for a job, as many as the largest machine of the Ray "
            f"cluster has. Received: {cpus_per_job}."
        )
    # Any: Ray's types know no default arguments
    remote: Any = ray.remote(num_cpus=cpus_per_job, max_retries=3)(_execute)

    def execute(job: Job, log: pathlib.Path) -> int:
        return ray.get(remote.remote(job, log.absolute(), cpus_per_job))

    workers = max(1, int(ray.cluster_resources().get("CPU", 1) // cpus_per_job))
    return execute, workers
