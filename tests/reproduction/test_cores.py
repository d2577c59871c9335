"""Jobs that run at the same time keep to cores of their own."""

import json
import os
import sys
import threading
import types

import pytest

from parl_tf.cli import reproduce
from parl_tf.errors import InputError
from parl_tf.reproduction import cores, scheduling
from parl_tf.reproduction.grid import Job
from parl_tf.reproduction.scheduling import execute_here, execute_on_ray, run_jobs

THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
TOOL = f"""
import json, os, pathlib, sys, time
name, others, status = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
here = pathlib.Path(__file__).parent
pinned = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
found = {{"cores": pinned, **{{key: os.environ.get(key) for key in {THREADS}}}}}
(here / f"{{name}}.tmp").write_text(json.dumps(found))
(here / f"{{name}}.tmp").rename(here / f"{{name}}.json")
while len(list(here.glob("*.json"))) < others:
    time.sleep(0.01)
sys.exit(status)
"""


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A folder with a tool that writes what it runs on, and ends once others have done so too."""
    (tmp_path / "parl_tf_tools.py").write_text(TOOL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # `python -m` looks here first
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def job(folder, name, others=0, status=0):
    """A job that runs until so many have begun, itself included."""
    return Job(
        name=name,
        tool="attack",
        arguments=(name, str(others), str(status)),
        output=folder / f"{name}.json",
        needs=(),
        always=False,
    )


def found(folder, *names):
    return [json.loads((folder / f"{name}.json").read_text()) for name in names]


def run(folder, jobs, workers):
    return run_jobs(jobs, folder / "out", execute_here(workers), workers=workers)


needs_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores and a system that keeps processes to cores",
)


@needs_two_cores
def test_two_at_a_time_have_all_cores_between_them_and_none_in_common(tool):
    before = os.sched_getaffinity(0)
    assert set(run(tool, [job(tool, "a", 2), job(tool, "b", 2)], 2).values()) == {"done"}
    first, second = found(tool, "a", "b")
    assert sorted(first["cores"] + second["cores"]) == sorted(before)
    threads = str(len(before) // 2)
    assert [first[name] for name in THREADS] == [second[name] for name in THREADS] == [threads] * 3
    assert os.sched_getaffinity(0) == before


def test_one_at_a_time_is_given_nothing(tool):
    assert run(tool, [job(tool, "a")], 1) == {"a": "done"}
    (only,) = found(tool, "a")
    assert [only[name] for name in THREADS] == [None] * 3
    if hasattr(os, "sched_getaffinity"):
        assert only["cores"] == sorted(os.sched_getaffinity(0))


def test_what_the_user_set_is_kept(tool, monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "7")
    monkeypatch.setattr(scheduling, "usable_cores", lambda: cores.usable_cores()[:1])
    run(tool, [job(tool, "a", 2), job(tool, "b", 2)], 2)
    for each in found(tool, "a", "b"):
        assert [each[name] for name in THREADS] == ["7", "1", "1"]


@needs_two_cores
def test_cores_are_given_back_by_a_job_that_fails(tool):
    jobs = [
        job(tool, "a", status=1),
        job(tool, "b", status=1),
        job(tool, "c", 4),
        job(tool, "d", 4),
    ]
    state = run(tool, jobs, 2)
    assert state == {"a": "failed", "b": "failed", "c": "done", "d": "done"}
    third, fourth = found(tool, "c", "d")
    assert sorted(third["cores"] + fourth["cores"]) == sorted(os.sched_getaffinity(0))


def test_a_thread_returns_to_its_cores_when_a_job_cannot_be_started(tool, monkeypatch):
    execute = execute_here(2)
    before = cores.usable_cores()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(tool / "nothing"))
        with pytest.raises(FileNotFoundError):
            execute(job(tool, "a"), tool / "log")
    assert cores.usable_cores() == before
    assert [execute(job(tool, name), tool / "log") for name in "bc"] == [0, 0]


@pytest.mark.parametrize(
    ("available", "jobs", "shares"),
    [
        ([4, 5, 6, 7], 2, [[4, 5], [6, 7]]),
        ([0, 1, 2, 3, 4], 2, [[0, 1], [2, 3, 4]]),
        ([3, 9], 2, [[3], [9]]),
        ([3, 9], 5, [[3], [9], [3], [9], [3]]),
    ],
)
def test_cores_are_divided_evenly_and_shared_if_there_are_too_few(available, jobs, shares):
    assert cores.divide(available, jobs) == shares


def test_every_share_has_as_many_threads_as_the_smallest(tool, monkeypatch):
    given = []
    monkeypatch.setattr(scheduling, "usable_cores", lambda: [0, 1, 2, 3, 4])
    monkeypatch.setattr(scheduling, "kept_to", lambda share: given.append(share) or _nothing())
    run(tool, [job(tool, "a", 2), job(tool, "b", 2)], 2)
    assert sorted(given) == [[0, 1], [2, 3, 4]]
    assert {each["OMP_NUM_THREADS"] for each in found(tool, "a", "b")} == {"2"}


def _nothing():
    return threading.Lock()  # as good a context as any


def test_where_processes_cannot_be_kept_to_cores_threads_are_set_all_the_same(tool, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    run(tool, [job(tool, "a", 2), job(tool, "b", 2)], 2)
    for each in found(tool, "a", "b"):
        assert [each[name] for name in THREADS] == ["3"] * 3


@pytest.fixture
def ray(monkeypatch):
    """A cluster of machines with 4 and 2 CPUs that runs everything in this process."""
    reserved = []

    def remote(**options):
        reserved.append(options["num_cpus"])
        return lambda function: types.SimpleNamespace(remote=function)

    nodes = [{"Resources": {"CPU": 4.0}}, {"Resources": {"CPU": 2.0}}, {"Resources": {}}]
    fake = types.SimpleNamespace(
        is_initialized=lambda: True,
        nodes=lambda: nodes,
        cluster_resources=lambda: {"CPU": 6.0},
        remote=remote,
        get=lambda result: result,
        reserved=reserved,
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_on_ray_a_job_has_a_thread_for_each_cpu_that_it_reserves(tool, ray):
    execute, workers = execute_on_ray("auto", 3)
    assert (ray.reserved, workers) == ([3], 2)
    assert execute(job(tool, "a"), tool / "log") == 0
    (only,) = found(tool, "a")
    assert [only[name] for name in THREADS] == ["3"] * 3


def test_more_cpus_than_any_machine_of_the_cluster_has_are_refused(ray):
    with pytest.raises(InputError, match=r"Expected at most 4 CPUs .* Received: 5"):
        execute_on_ray("auto", 5)


def test_cpus_per_job_without_ray_is_refused(capsys):
    assert reproduce.main(["--scale", "smoke", "--cpus-per-job", "2", "--list"]) == 2
    assert "--cpus-per-job applies only to --ray" in capsys.readouterr().err
