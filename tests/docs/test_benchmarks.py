"""The benchmark runs and writes what it says; its times are nobody's business here."""

import json
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
SPEED = BENCHMARKS / "speed.py"


def peer(command):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import turns
    finally:
        sys.path.remove(str(BENCHMARKS))
    return turns.Peer(command, {"PYTHONPATH": str(BENCHMARKS)})


def served(step):
    """A process whose step is a Python expression."""
    return peer(
        [sys.executable, "-c", f"import turns; turns.serve(lambda: (lambda: {step}, {{'x': 1}}))"]
    )


def test_a_peer_takes_one_step_a_call_after_its_first(tmp_path):
    trace = tmp_path / "trace"
    with served(f"open({str(trace)!r}, 'a').write('.') and print('not an answer')") as running:
        assert running.facts["x"] == 1
        assert running.facts["first_step_s"] >= 0
        for steps in (2, 3):
            running()
            assert trace.read_text() == "." * steps


def test_a_peer_without_a_step_says_why(tmp_path):
    with served(r"(_ for _ in ()).throw(ValueError('one\ntwo'))") as broken:
        assert broken.facts == {"error": "ValueError: one"}
    with peer([sys.executable, "-c", "raise SystemExit(3)"]) as ended:
        assert ended.facts == {"error": "the process ended with exit status 3"}
    with peer([str(tmp_path / "no-python")]) as missing:
        assert "no-python" in missing.facts["error"]


@pytest.mark.slow
def test_peers_measures_our_step_and_says_how_to_get_pytorch(tmp_path):
    bare = tmp_path / "python"  # Without installed packages, whatever this environment has.
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    options = f"--only peers --torch-python {bare} --batch-sizes 2 --rounds 1 --out {tmp_path}"
    subprocess.run([sys.executable, str(SPEED), *options.split()], check=True, capture_output=True)
    ours, *others = json.loads((tmp_path / "speed.json").read_text())["peers"]
    assert ours["step"] == "parl_tf, unprotected"
    assert ours["ours_over_it"] == 1
    assert ours["median_ms"] > 0
    assert len(others) == 3
    for row in others:
        assert "pip install torch" in row["error"]
        assert "median_ms" not in row


@pytest.mark.slow
def test_speed_writes_rows_as_json_and_tables(tmp_path):
    options = "--only startup steps --methods ADP --batch-sizes 2 --xla off --rounds 1"
    subprocess.run(
        [sys.executable, str(SPEED), *options.split(), "--out", str(tmp_path)],
        check=True,
        capture_output=True,
    )
    document = json.loads((tmp_path / "speed.json").read_text())
    assert {row["process"] for row in document["startup"]} >= {"import parl_tf", "python"}
    unprotected, adp = document["steps"]
    assert (unprotected["method"], unprotected["times_unprotected"]) == ("unprotected", 1.0)
    assert adp["method"] == "ADP"
    assert adp["first_step_s"] > 0 < adp["peak_MiB"]
    table = (tmp_path / "speed.md").read_text()
    assert "## steps" in table
    assert f"| ADP | 2 | False | {adp['median_ms']} |" in table


@pytest.mark.slow
def test_jobs_compares_two_trainings_in_a_row_with_two_at_a_time(monkeypatch):
    monkeypatch.syspath_prepend(SPEED.parent)
    import jobs

    options = "--network resnet8 --members 2 --train-examples 32 --epochs 1 --batch-size 16"
    in_a_row, together = jobs.measure(1, options)
    assert (in_a_row["jobs_at_a_time"], in_a_row["times_in_a_row"]) == (1, 1.0)
    assert together["jobs_at_a_time"] == 2
    assert together["times_in_a_row"] > 0 < together["median_ms"]
