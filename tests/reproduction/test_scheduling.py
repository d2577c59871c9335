import sys
import threading

import pytest

from parl_tf.errors import ExistingRunError, MissingExtraError
from parl_tf.reproduction.grid import Job
from parl_tf.reproduction.scheduling import execute_on_ray, is_done, run_jobs


def job(out, name, needs=(), arguments=("--x",), always=False):
    return Job(
        name=name,
        tool=name.split("/")[0],
        arguments=tuple(arguments),
        output=out / f"{name.replace('/', '-')}.json",
        needs=tuple(needs),
        always=always,
    )


def writer(order, fails=()):
    """Runs a job by writing its output."""

    def execute(job, log):
        order.append(job.name)
        if job.name in fails:
            return 1
        job.output.write_text("{}")
        return 0

    return execute


def diamond(out):
    return [
        job(out, "attack/a"),
        job(out, "attack/b", ["attack/a"]),
        job(out, "attack/c", ["attack/a"]),
        job(out, "report", ["attack/b", "attack/c"], always=True),
    ]


def test_jobs_run_after_those_that_they_need_and_only_once(tmp_path):
    order = []
    jobs = diamond(tmp_path)
    state = run_jobs(list(reversed(jobs)), tmp_path, writer(order), workers=2)
    assert set(state.values()) == {"done"}
    assert order[0] == "attack/a"
    assert order[-1] == "report"
    assert sorted(order) == sorted(job.name for job in jobs)
    order.clear()
    run_jobs(jobs, tmp_path, writer(order))
    assert order == ["report"]


def test_what_needs_a_failed_job_is_not_run_and_everything_else_is(tmp_path):
    order = []
    jobs = diamond(tmp_path)
    state = run_jobs(jobs, tmp_path, writer(order, fails={"attack/b"}))
    assert state == {
        "attack/a": "done",
        "attack/b": "failed",
        "attack/c": "done",
        "report": "not run",
    }
    order.clear()
    assert set(run_jobs(jobs, tmp_path, writer(order)).values()) == {"done"}
    assert order == ["attack/b", "report"]


def test_as_many_at_a_time_as_there_are_workers(tmp_path):
    barrier = threading.Barrier(2, timeout=20)

    def execute(job, log):
        barrier.wait()  # breaks unless two jobs run at the same time
        job.output.write_text("{}")
        return 0

    jobs = [job(tmp_path, "attack/a"), job(tmp_path, "attack/b")]
    assert set(run_jobs(jobs, tmp_path, execute, workers=2).values()) == {"done"}


def test_an_interrupted_job_is_not_done(tmp_path):
    (single,) = jobs = [job(tmp_path, "attack/a")]

    def interrupted(job, log):
        job.output.write_text("half of it")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, tmp_path, interrupted)
    assert not is_done(single, tmp_path)
    order = []
    run_jobs(jobs, tmp_path, writer(order))
    assert order == ["attack/a"]


def test_output_of_another_command_is_refused(tmp_path):
    run_jobs([job(tmp_path, "attack/a")], tmp_path, writer([]))
    other = job(tmp_path, "attack/a", arguments=["--y"])
    with pytest.raises(ExistingRunError, match="made by another command:\n  parl-attack --x\n"):
        run_jobs([other], tmp_path, writer([]))


def test_a_note_that_was_damaged_means_not_done(tmp_path):
    single = job(tmp_path, "attack/a")
    run_jobs([single], tmp_path, writer([]))
    (tmp_path / "jobs" / "attack" / "a.json").write_text("{")
    with pytest.raises(ExistingRunError):
        is_done(single, tmp_path)


def test_without_ray_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'parl_tf\[ray\]'"):
        execute_on_ray(None)
