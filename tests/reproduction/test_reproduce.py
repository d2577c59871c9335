"""parl-reproduce, as a user runs it: on a small grid, interrupted, and on a Ray cluster."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from parl_tf.cli import reproduce
from parl_tf.cli.estimates import seconds
from parl_tf.reproduction.grid import Job
from parl_tf.results.diversity import load_diversity
from parl_tf.results.files import load_records

SMALL = "--network resnet8 --members 2 --train-examples 64 --epochs 2 --batch-size 32"
GRID = f"""
datasets = ["digits"]
seeds = [0]
train = "--deterministic --recipe paper {SMALL}"
[surrogates]
other = "--seed 1000"
[settings]
parl3 = "--method parl --num-layers 3"
[attacks.black-box]
options = "--deterministic --protocol paper --num-examples 9 --epsilon 0.1 --num-steps 2"
surrogates = ["other"]
together = true
[diversity]
options = "--deterministic --num-examples 16 --num-steps 2"
"""
TOOL = [sys.executable, "-m", "parl_tf_tools", "reproduce"]
# Rounding depends on the number of threads: here and on Ray it is the same, however many cores.
ONE_THREAD = {
    **os.environ,
    **dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1"),
}


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The whole grid without interruption, on a local Ray cluster of two workers."""
    folder = tmp_path_factory.mktemp("straight")
    grid, out = folder / "grid.toml", folder / "out"
    grid.write_text(GRID)
    code = (
        "import ray, sys\n"
        "ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
        "from parl_tf.cli.reproduce import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["--grid", grid, "--out", out, "--ray"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=ONE_THREAD,
    )
    return out, done


def records_of(out):
    """What must be the same however often the work was interrupted."""
    results = out / "digits" / "results"
    records = load_records(results / "black-box.json")
    attacked = [
        (r.key, r.target.fingerprint, r.correct, r.tied, r.unmoved, r.data) for r in records
    ]
    diverse = [load_diversity(path) for path in sorted(results.glob("diversity-*.json"))]
    return attacked, [dataclasses.replace(record, seconds=0.0) for record in diverse]


def whole(out):
    """Whether everything that the grid promises is there."""
    names = {path.name for path in (out / "digits" / "results").glob("*.json")}
    assert names == {"black-box.json", "diversity-parl3-seed0.json"}
    page = (out / "report" / "index.html").read_text()
    assert "PARL/3" in page
    assert "not run" in page


@pytest.mark.slow
@pytest.mark.xdist_group("reproduce")
def test_on_a_local_ray_cluster_of_two_workers(straight):
    out, done = straight
    assert done.returncode == 0, done.stderr
    whole(out)
    started = [line.split()[2] for line in done.stderr.splitlines() if line.endswith(": running")]
    assert len(started) == len(set(started)) == 5


@pytest.mark.slow
@pytest.mark.xdist_group("reproduce")
def test_killed_again_and_again_it_ends_with_the_same_records(grid, straight, tmp_path):
    killed = tmp_path / "killed"
    kills = [  # what is there when it is killed
        lambda: list(killed.glob("digits/runs/*/checkpoint*")),
        lambda: list(killed.glob("digits/runs/other/model.keras")),
        lambda: list(killed.glob("digits/results/black-box.json")),
    ]
    for reached in kills:
        process = subprocess.Popen(
            [*TOOL, "--grid", grid, "--out", killed, "--jobs", "2"],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ONE_THREAD,
        )
        while not reached() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        [*TOOL, "--grid", grid, "--out", killed, "--jobs", "2", "--json"],
        capture_output=True,
        text=True,
        env=ONE_THREAD,
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["jobs"].values()) == {"done"}
    whole(killed)
    assert records_of(killed) == records_of(straight[0])
    before = {path: path.stat().st_mtime_ns for path in killed.glob("digits/**/*.*")}
    assert reproduce.main(["--grid", str(grid), "--out", str(killed)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in killed.glob("digits/**/*.*")}


def test_list_prints_a_command_for_each_job_and_does_nothing(grid, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--grid", str(grid), "--out", str(out), "--list"]
    assert reproduce.main([*arguments, "--only", "train"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("parl-train ") for line in lines)
    assert reproduce.main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert not out.exists()


def test_a_dry_run_estimates_and_does_nothing(grid, tmp_path, capsys):
    out = tmp_path / "out"
    assert reproduce.main(["--grid", str(grid), "--out", str(out), "--dry-run", "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    assert len(jobs) == 5
    assert all(job["seconds"] > 0 for job in jobs)
    assert not out.exists()
    assert reproduce.main(["--grid", str(grid), "--out", str(out), "--dry-run"]) == 0
    assert "in total on two CPU cores" in capsys.readouterr().out


def test_an_estimate_counts_the_ensemble_that_a_run_trains_to_start_from():
    def estimate(*options):
        arguments = ("--dataset", "cifar10", "--recipe", "fast", "--out", "run", *options)
        return seconds(
            Job(name="train/cifar10/x", tool="train", arguments=arguments, output=pathlib.Path("x"))
        )

    unprotected, given = estimate("--method", "unprotected"), ("--start-from", "other")
    for method in ("dverge", "trs"):
        apart = estimate("--method", method, *given)
        assert estimate("--method", method) == pytest.approx(apart + unprotected, abs=20)
        assert estimate("--method", method, "--epochs", "8", *given) == pytest.approx(
            2 * apart, abs=20
        )
    part = estimate("--method", "unprotected", "--validation-fraction", "0.5")
    assert part == pytest.approx(unprotected / 2, abs=20)


@pytest.mark.slow
def test_a_job_that_fails_is_named_with_what_it_said(grid, tmp_path, capsys):
    grid.write_text(GRID.replace("--num-layers 3", "--tap nothing"))
    out = tmp_path / "out"
    arguments = ["--grid", str(grid), "--out", str(out), "--only", "*/parl3-seed0"]
    assert reproduce.main(arguments) == 1
    printed = capsys.readouterr()
    assert "Unknown tap" in printed.err
    assert "Failed: train/digits/parl3-seed0" in printed.out
    assert "diversity/digits/parl3-seed0: not run" in printed.err
    assert not (out / "digits" / "runs" / "adp-seed0").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--scale", "smok"], 2, "Did you mean smoke"),
        (["--grid", "nothing.toml"], 3, "No grid at"),
        (["--scale", "smoke", "--only", "trains"], 2, "Expected a pattern that matches"),
        (["--scale", "smoke", "--out", __file__], 2, "a file"),
    ],
)
def test_ends_in_a_message(capsys, arguments, status, message):
    assert reproduce.main([*arguments, "--list"]) == status
    assert message in capsys.readouterr().err


def test_scripts_are_executable():
    root = pathlib.Path(__file__).parents[2]
    for name in ("parl-reproduce", "parl-report", "parl-diversity"):
        assert os.access(root / "bin" / name, os.X_OK), name
