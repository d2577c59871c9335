import pytest
from test_records import record

from parl_tf.errors import InputError
from parl_tf.report import accuracy_figure, accuracy_table, markdown_table

RECORDS = [
    record(target=target, attack="clean", epsilon=0.0, correct=[[1, 1, 1, clean]])
    for target, clean in (("unprotected", 1), ("parl", 0))
]
RECORDS += [
    record(target="unprotected", attack="fgsm", epsilon=0.03, correct=[[1, 0, 0, 0]]),
    record(target="unprotected", attack="pgd", epsilon=0.03),
    record(target="parl", attack="pgd", epsilon=0.01, correct=[[1, 1, 1, 0]]),
]


def test_table_has_a_row_for_each_target_and_epsilon_and_names_what_was_not_run():
    header, rows = accuracy_table(RECORDS)
    assert header == ["target", "epsilon", "clean", "FGSM", "PGD mean", "PGD worst"]
    assert rows == [
        ["unprotected", "0.01", "100.0", "not run", "not run", "not run"],
        ["unprotected", "0.03", "100.0", "25.0", "41.7", "25.0"],
        ["parl", "0.01", "75.0", "not run", "75.0", "75.0"],
        ["parl", "0.03", "75.0", "not run", "not run", "not run"],
    ]


def test_two_records_for_one_cell_are_refused():
    with pytest.raises(InputError, match="one record for each"):
        accuracy_table([*RECORDS, RECORDS[-1]])


def test_clean_records_alone_make_a_table():
    header, rows = accuracy_table(RECORDS[:2])
    assert header == ["target", "epsilon", "clean"]
    assert rows == [["unprotected", "0", "100.0"], ["parl", "0", "75.0"]]


def test_markdown():
    assert markdown_table(["target", "FGSM"], [["parl", "25.0"]]) == (
        "| target | FGSM |\n| --- | ---: |\n| parl | 25.0 |\n"
    )


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_figure_names_every_series_and_panel(tmp_path, ending):
    path = tmp_path / f"accuracy.{ending}"
    accuracy_figure(RECORDS, path)
    content = path.read_bytes()
    if ending == "svg":
        for text in (b"unprotected", b"parl", b"FGSM", b"PGD", b"epsilon", b"n = 4"):
            assert b"<!-- " + text in content or text in content, text
    else:
        assert content.startswith(b"\x89PNG")


def test_nothing_attacked_is_nothing_to_draw(tmp_path):
    with pytest.raises(InputError, match="at least one attack"):
        accuracy_figure(RECORDS[:2], tmp_path / "accuracy.png")
