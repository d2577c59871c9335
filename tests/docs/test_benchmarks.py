"""The benchmark runs and writes what it says; its times are nobody's business here."""

import json
import pathlib
import subprocess
import sys

import pytest

SPEED = pathlib.Path(__file__).parents[2] / "benchmarks" / "speed.py"


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
