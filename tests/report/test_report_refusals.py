"""What is not put into one table, and what a report says of what is missing."""

import dataclasses
import json

import pytest
from harness.report_records import (
    card,
    config,
    data_of,
    diversity,
    hyperparameters,
    record,
    surrogate,
)
from harness.report_records import write_records as write

from parl_tf.defences.former_arguments import FORMER_ARGUMENTS
from parl_tf.errors import ExistingRunError, InputError, MissingFileError, UnreadableFileError
from parl_tf.report.figures.paper import draw_all, not_drawn
from parl_tf.report.page.writing import write_report
from parl_tf.report.records.agreement import agreed
from parl_tf.report.records.collection import collect
from parl_tf.report.tables.masking import diagnoses
from parl_tf.report.tables.paper import table1, table2
from parl_tf.report.tables.worst import worst_table
from parl_tf.results.diversity import save_diversity
from parl_tf.training.config import Start

ONES = [[1] * 40]


def pgd(target=None, number=0, epsilon=0.07, restarts=2, **changes):
    """A black-box record of PGD."""
    given = {
        "threat_model": "black_box",
        "surrogate": surrogate(number),
        "attack": "pgd",
        "hyperparameters": hyperparameters("pgd"),
        "epsilon": epsilon,
        "correct": ONES * restarts,
    }
    return record(target=target, **{**given, **changes})


def read(folder, **files):
    """The collection of results files of given records."""
    for name, records in files.items():
        write(records, folder / f"{name}.json")
    return agreed(collect([folder]))


def cell(table, part, row, column):
    """A cell of a table."""
    (block,) = (block for block in table.blocks if block.title == part)
    (cells,) = (line.cells for line in block.rows if line.label == row)
    return cells[block.header.index(column) - 1]


OTHER = card("unprotected", 0)
CHANGES = {
    "other images": (
        pgd(OTHER, data={**data_of("cifar10"), "fingerprint": "others"}),
        "set of images .*'cifar10-images' .*'others'",
    ),
    "another copy of the data set": (
        pgd(OTHER, data={**data_of("cifar10"), "dataset_fingerprint": "jpeg"}),
        "one copy of cifar10.*'da7a' .*a.json.*'jpeg' .*b.json",
    ),
    "another surrogate": (pgd(OTHER, number=1), "same surrogates .*cifar10-surrogate-0 for PARL/7"),
    "other strengths": (pgd(OTHER, epsilon=0.03), "same epsilons .*0.07 for PARL/7.*0.03 for ENS"),
    "another seed": (pgd(OTHER, seed=1), "one seed .*0 .*1 "),
    "other hyperparameters": (
        pgd(OTHER, hyperparameters=hyperparameters("pgd", num_steps=7)),
        r"hyperparameters of pgd .*pgd\(.*num_steps=50,.*for PARL/7.*num_steps=7,.*for ENS_U",
    ),
    "another training": (
        pgd(card("parl7", 1, recipe={"batch_size": 128})),
        "targets of PARL/7 that differ only in their seeds.*recipe.batch_size 64",
    ),
    "another argument": (
        pgd(
            card("parl7", 1, arguments={"diversity_weight": 2}),
        ),
        "arguments.diversity_weight 'nothing' .*, 2 ",
    ),
    "other weights": (
        pgd(dataclasses.replace(card("parl7", 0), fingerprint="other")),
        "one set of weights for PARL/7, seed 0",
    ),
    "a contradiction": (pgd(correct=[[0] * 40] * 2), "two that contradict each other"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_records_that_do_not_agree_are_refused(tmp_path, change):
    other, message = CHANGES[change]
    with pytest.raises(InputError, match=message) as refused:
        read(tmp_path, a=[pgd()], b=[other])
    assert "a.json" in str(refused.value)
    assert "b.json" in str(refused.value)


def test_seeds_may_differ_in_start_versions_and_commit(tmp_path):
    other = card(
        "parl7", 1, start_from=Start(run="runs/1"), versions={"keras": "3.13"}, commit="f00d"
    )
    table = table1(read(tmp_path, a=[pgd()], b=[pgd(other, correct=[[0] * 40] * 2)]))
    found = cell(table, "CIFAR-10", "PARL/7", "PGD")
    assert (found.mean, found.seeds) == (50.0, 2)
    assert found.deviation == pytest.approx(70.71067811865476)
    assert found.text == "50.0 ± 70.7"


FORMER = {
    "dverge": {"distillation_moves_statistics": True},
    "trs": {"move_half": False},
    "guardian7": {"norms": "constant"},
}


@pytest.mark.parametrize("method", FORMER)
def test_runs_of_before_and_after_an_argument_stand_in_one_table(tmp_path, method):
    former = FORMER_ARGUMENTS[method.rstrip("7")]
    old, new = card(method, 0), card(method, 1, arguments=former)
    collection = read(tmp_path, a=[pgd(old)], b=[pgd(new, correct=[[0] * 40] * 2)])
    (setting,) = collection.settings
    found = cell(table1(collection), "CIFAR-10", setting.label, "PGD")
    assert (found.mean, found.seeds) == (50.0, 2)
    for name, value in FORMER[method].items():
        assert former[name] != value
        other = card(method, 1, arguments={**former, name: value})
        with pytest.raises(InputError, match=f"arguments.{name} {former[name]!r} .*{value!r} "):
            read(tmp_path, a=[pgd(old)], b=[pgd(other)])


def test_a_repeated_record_counts_once(tmp_path):
    again = dataclasses.replace(pgd(), seconds=99.0, versions={"keras": "3.13"})
    collection = read(tmp_path, a=[pgd()], b=[again])
    assert len(collection.results) == 1
    assert collection.results[0].source.file == "a.json"


def test_what_was_not_run_says_so(tmp_path):
    table = table1(read(tmp_path, a=[record(), pgd()]))
    for row in ("ENS_U", "ADP", "GAL", "DVERGE"):
        assert cell(table, "CIFAR-10", row, "PGD").text == "not run"
        assert cell(table, "CIFAR-100", row, "clean").text == "not run"
    assert cell(table, "CIFAR-10", "PARL/7", "clean").text == "100.0"
    assert cell(table, "CIFAR-10", "PARL/7", "FGSM").text == "not run"
    assert cell(table, "CIFAR-10", "PARL/7", "PGD, all surrogates").text == "not run"
    assert cell(table, "CIFAR-10", "PARL/7 (paper)", "PGD").text == "15.65"
    assert cell(table, "CIFAR-10", "PARL/7 (paper)", "PGD worst").text == "not given"
    assert cell(table, "CIFAR-100", "GAL (paper)", "clean").text == "not given"


def test_an_unfinished_restart_is_not_a_result(tmp_path):
    write([pgd(restarts=1)], tmp_path / "a.json", finished=False)
    collection = agreed(collect([tmp_path]))
    assert collection.unfinished == ["a.json"]
    assert cell(table1(collection), "CIFAR-10", "PARL/7", "PGD").text == "not run"


def test_the_worst_case_is_over_all_surrogates_or_not_given(tmp_path):
    half = [[1] * 20 + [0] * 20] * 2
    quarter = [[0] * 10 + [1] * 30] * 2
    records = [pgd(correct=half), pgd(number=1, correct=quarter), pgd(OTHER)]
    collection = read(tmp_path, a=records)
    table = table1(collection)
    assert cell(table, "CIFAR-10", "PARL/7", "PGD").text == "50.0"
    assert cell(table, "CIFAR-10", "PARL/7", "PGD, all surrogates").text == "25.0"
    assert cell(table, "CIFAR-10", "ENS_U", "PGD, all surrogates").text == "not run in full"
    part = "CIFAR-10, black box, protocol unlike-surrogates"
    worst = worst_table(collection)
    assert cell(worst, part, "PARL/7", "epsilon 0.07").text == "25.0"
    assert cell(worst, part, "PARL/7", "from surrogate-0 at 0.07").text == "50.0"
    assert cell(worst, part, "PARL/7", "from surrogate-1 at 0.07").text == "75.0"


def test_a_seed_that_lacks_a_result_is_told(tmp_path):
    records = [pgd(), pgd(card("parl7", 1)), pgd(epsilon=0.03)]
    table = worst_table(read(tmp_path, a=[*records, pgd(number=1), pgd(number=1, epsilon=0.03)]))
    part = "CIFAR-10, black box, protocol unlike-surrogates"
    assert cell(table, part, "PARL/7", "epsilon 0.07").text == "100.0 (of 1 seed)"


def test_paper_s_protocol_is_the_single_surrogate_and_unlike_ones_the_worst_case(tmp_path):
    half, none = [[1] * 20 + [0] * 20] * 2, [[0] * 40] * 2
    paper = [pgd(protocol="paper")]
    unlike = [pgd(correct=half), pgd(correct=none, number=1)]
    table = table1(read(tmp_path, a=paper, b=unlike))
    assert cell(table, "CIFAR-10", "PARL/7", "PGD").text == "100.0"
    assert cell(table, "CIFAR-10", "PARL/7", "PGD, all surrogates").text == "0.0"
    others = {**data_of("cifar10"), "fingerprint": "others"}
    moved = [dataclasses.replace(record, data=others) for record in unlike]
    with pytest.raises(InputError, match=r"one set of images of cifar10 in Table 1.*others"):
        table1(read(tmp_path, a=paper, b=moved))


def test_an_attack_in_several_ways_stands_for_itself_by_its_usual_one(tmp_path):
    margin = hyperparameters("pgd", loss="margin")
    fewer = hyperparameters("pgd", num_steps=20)
    records = [
        pgd(hyperparameters=margin, correct=[[0] * 40] * 2),
        pgd(hyperparameters=fewer, correct=[[0] * 40] * 2),
        pgd(),
    ]
    collection = read(tmp_path, a=records)
    assert cell(table1(collection), "CIFAR-10", "PARL/7", "PGD").text == "100.0"
    part = "CIFAR-10, black box, protocol unlike-surrogates"
    assert cell(worst_table(collection), part, "PARL/7", "epsilon 0.07").text == "0.0"


def test_checks_find_the_clean_images_of_another_protocol(tmp_path):
    white = {"threat_model": "white_box", "surrogate": None, "protocol": "diagnostics"}
    records = [record(), record(card("parl7", 1))]
    zeros = [[0] * 40] * 2
    checked = [pgd(**white, epsilon=epsilon, correct=zeros) for epsilon in (0.03, 0.07)]
    (found,) = diagnoses(read(tmp_path, a=[*records, *checked]))
    assert found.title == "CIFAR-10, PARL/7, seed 0"
    falls = next(check for check in found.checks if check.check == "accuracy falls with epsilon")
    assert falls.passed
    assert falls.detail.startswith("clean 100.0")


@pytest.mark.parametrize(
    ("epsilons", "given", "chosen"),
    [
        ((0.03, 0.07, 0.1), None, "0.07"),
        ((0.03, 0.1, 0.3), None, "0.1"),
        ((0.2, 0.3), None, "0.2"),
        ((0.03, 0.07), 0.03, "0.03"),
    ],
)
def test_strength_of_table_1(tmp_path, epsilons, given, chosen):
    collection = read(tmp_path, a=[pgd(epsilon=epsilon) for epsilon in epsilons])
    table = table1(collection, epsilon=given)
    assert f"Black box at epsilon {chosen} from" in " ".join(table.blocks[0].notes)
    with pytest.raises(InputError, match=r"Expected an epsilon that was run: .*Received: 0\.5"):
        table1(collection, epsilon=0.5)


def test_clean_records_alone_make_a_report(tmp_path):
    collection = read(tmp_path, a=[record(card("parl5", 0))])
    assert cell(table2(collection), "Clean images", "CIFAR-10", "PARL/5").text == "100.0"
    assert cell(table2(collection), "Clean images", "CIFAR-10 (paper)", "PARL/5").text == "91.18"
    assert len(not_drawn(draw_all(collection))) == 6


def test_measures_of_other_images_are_refused(tmp_path):
    one = diversity("cifar10", "parl7", 0)
    other = diversity("cifar10", "unprotected", 0)
    save_diversity(one, tmp_path / "a.json")
    save_diversity(
        dataclasses.replace(other, data={**other.data, "num_examples": 7}), tmp_path / "b.json"
    )
    with pytest.raises(InputError, match="num_examples of images of cifar10"):
        agreed(collect([tmp_path]))


def broken(text):
    """Ways to break the text of a results file, with what is said of them."""
    document = json.loads(text)
    return {
        "truncated": (text[: len(text) // 2], "not JSON, or is truncated"),
        "edited": (text.replace('"unlike-surrogates"', '"paper"'), "changed after it was written"),
        "other format": (json.dumps({**document, "format": 1}), "has format 1"),
    }


@pytest.mark.parametrize("how", ["truncated", "edited", "other format"])
@pytest.mark.parametrize("named", [True, False])
def test_broken_files_are_refused(tmp_path, how, named):
    path = write([pgd()], tmp_path / "results" / "a.json")
    text, message = broken(path.read_text())[how]
    path.write_text(text)
    with pytest.raises(UnreadableFileError, match=message):
        collect([path if named else path.parent])


def test_other_files_are_left_alone_in_a_folder_and_refused_when_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config("parl7", 0).to_json()))
    write([pgd()], tmp_path / "a.json")
    assert [source.file for source in collect([tmp_path]).sources] == ["a.json"]
    with pytest.raises(UnreadableFileError):
        collect([path])


def test_nothing_to_report(tmp_path):
    with pytest.raises(InputError, match="Expected result records to report"):
        collect([tmp_path])
    with pytest.raises(InputError, match="Expected result records to report"):
        collect([write([], tmp_path / "a.json", finished=False)])
    with pytest.raises(MissingFileError, match="nowhere"):
        collect([tmp_path / "nowhere"])


def test_other_files_are_not_overwritten(tmp_path):
    results = write([record()], tmp_path / "a.json")
    out = tmp_path / "out"
    out.mkdir()
    (out / "table1.csv").write_text("mine")
    with pytest.raises(ExistingRunError, match=r"holds table1\.csv"):
        write_report([results], out)
    assert (out / "table1.csv").read_text() == "mine"
    with pytest.raises(ExistingRunError, match="a file"):
        write_report([results], results)


def test_an_earlier_report_is_replaced_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    write_report([write([record()], tmp_path / "a.json")], out)
    (out / "notes.txt").write_text("mine")
    (out / "figure3.png").write_text("of the earlier report")
    report = write_report([tmp_path / "a.json"], out)
    assert {path.name for path in out.iterdir()} == {*report.files, "notes.txt"}
