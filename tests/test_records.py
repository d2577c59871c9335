import dataclasses
import json

import pytest

from parl_tf.errors import ExistingRunError, MissingFileError, UnreadableFileError
from parl_tf.records import Record, load_records, save_records


def record(**changes):
    values = {
        "target": "parl",
        "threat_model": "black_box",
        "surrogate": "surrogate",
        "attack": "pgd",
        "hyperparameters": {"num_steps": 50, "restarts": 3},
        "epsilon": 0.03,
        "correct": [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]],
        "mean_probability_accuracy": 0.5,
        "tie_rate": 0.25,
        "seed": 0,
        "batch_size": 250,
        "seconds": 1.5,
        "data": {"name": "cifar10", "fingerprint": "0123", "num_examples": 4},
        "versions": {"keras": "3"},
    }
    return Record(**{**values, **changes})


def test_mean_and_worst_case_over_restarts():
    assert record().accuracy == pytest.approx(5 / 12)
    assert record().worst_case_accuracy == 0.25
    assert record().num_examples == 4


def test_saved_records_load_equal_and_carry_their_accuracies(tmp_path):
    records = [record(), record(target="other", correct=[[0, 1, 1, 1]])]
    document = save_records(records, tmp_path / "new" / "results.json")
    assert load_records(tmp_path / "new" / "results.json") == records
    stored = json.loads((tmp_path / "new" / "results.json").read_text())
    assert stored == document
    assert stored["records"][1]["accuracy"] == 0.75
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["results.json"]


def test_nothing_is_overwritten_and_no_file_is_a_folder(tmp_path):
    save_records([record()], tmp_path / "results.json")
    before = (tmp_path / "results.json").read_bytes()
    for path in (tmp_path / "results.json", tmp_path / "results.json" / "more.json"):
        with pytest.raises(ExistingRunError):
            save_records([record(target="other")], path)
    assert (tmp_path / "results.json").read_bytes() == before


def test_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match="No result records at"):
        load_records(tmp_path / "results.json")


@pytest.mark.parametrize(
    "change",
    [
        {"correct": []},
        {"correct": [[1, 0], [1]]},
        {"correct": [[1, 2]]},
        {"correct": "1101"},
        {"threat_model": "grey_box"},
        {"epsilon": "8/255"},
        {"epsilon": 8},
    ],
)
def test_records_that_make_no_sense_are_refused(tmp_path, change):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"records": [{**dataclasses.asdict(record()), **change}]}))
    with pytest.raises(UnreadableFileError, match="does not hold result records"):
        load_records(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"records": [1]}', '{"records": [{}]}'])
def test_files_that_are_not_records_are_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UnreadableFileError, match="does not hold result records"):
        load_records(tmp_path / "results.json")
