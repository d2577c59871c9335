import dataclasses
import json
import os
import pathlib

import pytest
from test_records import CARD, record

from parl_tf.errors import ExistingRunError, InputError, MissingFileError, UnreadableFileError
from parl_tf.results import files as results
from parl_tf.results.files import ResultStore, checksum, load_records, to_document

PLAN = {"protocol": "paper", "seed": 0, "targets": {"parl": "0011"}, "cases": [["pgd", 0.03]]}
RECORDS = [record(), record(epsilon=0.05)]


def write(path, document, **changes):
    """Writes a document with changes, and a checksum that fits them."""
    document = {**document, **changes}
    document["checksum"] = checksum(document)
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def path(tmp_path):
    """A results file."""
    store = ResultStore(tmp_path / "results.json", PLAN)
    store.put(RECORDS)
    store.finish()
    return tmp_path / "results.json"


def test_records_load_equal_in_their_order(path):
    assert load_records(path) == RECORDS
    document = json.loads(path.read_text())
    assert document == to_document(RECORDS, PLAN, True)
    assert [child.name for child in path.parent.iterdir()] == ["results.json"]


VERSIONS = {"keras": "3.15.1", "oneDNN": "on"}


@pytest.mark.parametrize(
    ("there", "way_out"),
    [
        ({**VERSIONS, "oneDNN": "off"}, "To continue it, set TF_ENABLE_ONEDNN_OPTS=0 before"),
        ({**VERSIONS, "keras": "3.12.0"}, ""),
        ({**VERSIONS, "oneDNN": "off", "keras": "3.12.0"}, ""),
        ({**VERSIONS, "numpy": "2.0.0"}, ""),
    ],
)
def test_other_versions_are_refused_and_another_onednn_with_the_way_out(path, there, way_out):
    write(path, to_document(RECORDS, {**PLAN, "versions": there}, False))
    before = path.read_bytes()
    with pytest.raises(ExistingRunError, match="its versions is .*nothing was changed") as refused:
        ResultStore(path, {**PLAN, "versions": VERSIONS})
    said = str(refused.value).split("nothing was changed.")[1].strip()
    assert said.startswith(way_out)
    assert bool(said) == bool(way_out)
    assert path.read_bytes() == before


@pytest.mark.parametrize("finished", [True, False])
def test_versions_that_an_older_file_lacks_are_not_asked_for(path, finished):
    older = {**PLAN, "versions": {"keras": "3.15.1"}}
    write(path, to_document(RECORDS, older, finished))
    store = ResultStore(path, {**PLAN, "versions": VERSIONS})
    assert store.finished == finished
    assert store.records == RECORDS
    store.put(RECORDS)
    assert json.loads(path.read_text())["plan"] == older


def test_the_folder_of_a_file_is_made_with_its_first_record(tmp_path):
    store = ResultStore(tmp_path / "new" / "deep" / "results.json", PLAN)
    assert not (tmp_path / "new").exists()
    store.put(RECORDS[:1])
    assert load_records(tmp_path / "new" / "deep" / "results.json") == RECORDS[:1]


@pytest.mark.parametrize("name", ["nothing.json", "folder", "nothing/results.json"])
def test_missing_files(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(MissingFileError, match="No result records at"):
        load_records(tmp_path / name)


def test_a_file_cut_anywhere_is_refused(path):
    whole = path.read_bytes().rstrip()
    for length in [*range(0, len(whole), 37), *range(len(whole) - 20, len(whole))]:
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableFileError, match=r"results\.json"):
            load_records(path)


def test_a_digit_changed_anywhere_is_noticed(path):
    whole = path.read_text()
    positions = [position for position, letter in enumerate(whole) if letter in "0123456789"]
    for position in positions[::3]:
        other = str((int(whole[position]) + 1) % 10)
        path.write_text(whole[:position] + other + whole[position + 1 :])
        with pytest.raises(UnreadableFileError, match=r"results\.json"):
            load_records(path)
    path.write_text(whole)
    assert load_records(path) == RECORDS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"format":' * 100_000, "not JSON"),
        (b"null", "does not hold"),
        (b"[]", "does not hold"),
        (b'"format"', "does not hold"),
        (b"{}", "does not hold"),
        (b'{"records": []}', "does not hold"),
        (b'{"format": 1, "records": []}', "has format 1; this version"),
        (b'{"format": [2]}', r"has format \[2\]; this version"),
        (b'{"format": 2}', "checksum"),
        (b'{"format": 2, "checksum": 3}', "checksum"),
        (b'{"format": 2, "records": NaN}', "checksum"),
        (b'{"format": 2, "records": 1e999}', "checksum"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_bytes(text)
    for read in (load_records, lambda path: ResultStore(path, PLAN)):
        with pytest.raises(UnreadableFileError, match=message):
            read(path)
    assert path.read_bytes() == text


@pytest.mark.parametrize("depth", [*range(100, 1000, 100), *range(900, 1001, 5)])
def test_nesting_of_any_depth_is_refused(tmp_path, depth):
    path = tmp_path / "results.json"
    path.write_text('{"format": 2, "records": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(UnreadableFileError):
        load_records(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"records": None},
        {"records": 3},
        {"records": [1]},
        {"records": [{}]},
        {"records": {"a": 1}},
        {"records": [results.to_json(RECORDS[0]) | {"accuracy": 0.9}]},
    ],
)
def test_records_that_make_no_sense_are_refused_with_any_checksum(path, changes):
    write(path, to_document(RECORDS, PLAN, True), **changes)
    with pytest.raises(UnreadableFileError, match="does not hold result records"):
        load_records(path)


def test_two_records_of_one_result_are_refused(path):
    write(path, to_document([RECORDS[0], dataclasses.replace(RECORDS[0], seed=3)], PLAN, True))
    with pytest.raises(UnreadableFileError, match="two records of the same result"):
        load_records(path)


@pytest.mark.parametrize("broken", ["dumps", "replace", "write_bytes"])
def test_what_goes_wrong_in_writing_leaves_the_old_file(path, monkeypatch, broken):
    before = path.read_bytes()
    store = ResultStore(path, PLAN)

    def fail(*_, **__):
        raise OSError("no space left")

    owner = {"dumps": json, "replace": os, "write_bytes": pathlib.Path}[broken]
    monkeypatch.setattr(owner, broken, fail)
    with pytest.raises(OSError, match="no space left"):
        store.put([record(epsilon=0.07)])
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert load_records(path) == RECORDS


def test_a_write_cut_short_leaves_the_old_file_and_does_not_hinder_the_next(path, monkeypatch):
    before, write_bytes = path.read_bytes(), pathlib.Path.write_bytes

    def half(self, content):
        write_bytes(self, content[: len(content) // 2])
        raise KeyboardInterrupt

    store = ResultStore(path, PLAN)
    monkeypatch.setattr(pathlib.Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        store.put([record(epsilon=0.07)])
    monkeypatch.undo()
    assert path.read_bytes() == before
    again = ResultStore(path, PLAN)
    again.put([record(epsilon=0.07)])
    assert load_records(path) == [*RECORDS, record(epsilon=0.07)]
    assert [child.name for child in path.parent.iterdir()] == ["results.json"]


def test_a_store_goes_on_with_what_is_there(path):
    store = ResultStore(path, PLAN)
    assert store.finished
    assert store.records == RECORDS
    assert store.get(RECORDS[1].key) == RECORDS[1]
    assert store.get(record(epsilon=0.06).key) is None
    longer = record(correct=[[1, 1, 1, 1]], mean_right=[1.0], tied=[0.0], unmoved=[0.0])
    store.put([longer])
    assert load_records(path) == [longer, RECORDS[1]]


def test_an_unfinished_file_says_so(path):
    write(path, to_document(RECORDS[:1], PLAN, False))
    store = ResultStore(path, PLAN)
    assert not store.finished
    store.finish()
    assert ResultStore(path, PLAN).finished


def test_further_targets_continue_a_finished_file(path):
    more = {**PLAN, "targets": {"other": "4455", "parl": "0011"}}
    store = ResultStore(path, more)
    assert not store.finished
    assert store.records == RECORDS
    assert json.loads(path.read_text())["plan"] == PLAN  # nothing is written before a record
    store.put([record(target=dataclasses.replace(CARD, name="other"))])
    with pytest.raises(ExistingRunError, match="its targets is"):
        ResultStore(path, PLAN)  # fewer than what the file holds
    assert not ResultStore(path, more).finished


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "custom"}, "its protocol is 'paper', here it is 'custom'"),
        ({"seed": 1}, "its seed is 0, here it is 1"),
        ({"targets": {"parl": "9999"}}, "its targets is .*0011.*, here it is .*9999"),
        ({"targets": {"other": "0011"}}, "its targets is"),
        ({"cases": [["pgd", 0.05]]}, "its cases is"),
        ({"surrogates": {}}, "its surrogates is None, here it is {}"),
    ],
)
def test_another_evaluation_is_refused_and_named(path, change, message):
    before = path.read_bytes()
    with pytest.raises(ExistingRunError, match=message):
        ResultStore(path, {**PLAN, **change})
    assert path.read_bytes() == before


@pytest.mark.parametrize("plan", [None, [], "plan", {}, {"targets": None}, {"targets": ["parl"]}])
def test_a_file_without_a_plan_is_not_continued(path, plan):
    write(path, to_document(RECORDS, PLAN, True), plan=plan)
    assert load_records(path) == RECORDS
    with pytest.raises(ExistingRunError, match="another evaluation"):
        ResultStore(path, PLAN)


def test_tuples_in_a_plan_are_what_they_become_in_json(tmp_path):
    plan = {**PLAN, "cases": [("pgd", 0.03)]}
    ResultStore(tmp_path / "results.json", plan).finish()
    assert ResultStore(tmp_path / "results.json", plan).finished


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_a_plan_that_is_not_json_is_refused_at_once(tmp_path, value):
    for path in (tmp_path / "results.json", None):
        with pytest.raises(InputError, match="JSON"):
            ResultStore(path, {**PLAN, "data": value})


def test_no_file_is_a_folder(path):
    for wrong in (path.parent, path / "more.json", path / "deep" / "more.json"):
        with pytest.raises(ExistingRunError, match="cannot be written"):
            ResultStore(wrong, PLAN)


def test_without_a_path_records_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = ResultStore(None, PLAN)
    store.put(RECORDS)
    store.finish()
    assert store.records == RECORDS
    assert not list(tmp_path.iterdir())
