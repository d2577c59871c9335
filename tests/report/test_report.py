"""Tables and figures of one evaluation."""

import pytest
from harness.report_records import card, diversity, record, surrogate

from parl_tf.errors import InputError
from parl_tf.report import accuracy_figure, accuracy_table, cka_figure, markdown_table
from parl_tf.results.records import ModelCard
from parl_tf.results.settings import Setting

UNPROTECTED, PARL = (ModelCard(name=name, fingerprint=name) for name in ("unprotected", "parl"))


def clean(target, right):
    return record(target=target, correct=[[1, 1, 1, right]])


def attacked(target, attack, epsilon, correct, number=0, **hyperparameters):
    return record(
        target=target,
        threat_model="black_box",
        surrogate=surrogate(number),
        attack=attack,
        hyperparameters=hyperparameters,
        epsilon=epsilon,
        correct=correct,
    )


PGD = [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]]
RECORDS = [
    clean(UNPROTECTED, 1),
    clean(PARL, 0),
    attacked(UNPROTECTED, "fgsm", 0.03, [[1, 0, 0, 0]]),
    attacked(UNPROTECTED, "pgd", 0.03, PGD),
    attacked(PARL, "pgd", 0.01, [[1, 1, 1, 0]]),
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


def test_several_surrogates_are_rows_and_hyperparameters_columns():
    records = [
        clean(PARL, 1),
        attacked(PARL, "pgd", 0.03, [[1, 0, 0, 0]], loss="margin", num_steps=5),
        attacked(PARL, "pgd", 0.03, [[1, 1, 0, 0]], loss="cross_entropy", num_steps=5),
        attacked(PARL, "pgd", 0.03, [[1, 1, 1, 0]], number=1, loss="margin", num_steps=5),
    ]
    header, rows = accuracy_table(records)
    assert header == [
        *("target", "crafted on", "epsilon", "clean", "PGD (margin)", "PGD (cross_entropy)"),
    ]
    assert rows == [
        ["parl", "surrogate-0", "0.03", "100.0", "25.0", "50.0"],
        ["parl", "surrogate-1", "0.03", "100.0", "75.0", "not run"],
    ]
    with pytest.raises(InputError, match="records of one surrogate"):
        accuracy_figure(records)


def test_equal_hyperparameters_are_one_column_and_missing_ones_are_named():
    records = [
        attacked(PARL, "pgd", 0.03, [[1, 0, 0, 0]], num_steps=5),
        attacked(UNPROTECTED, "pgd", 0.03, [[1, 1, 0, 0]], num_steps=5.0),
    ]
    assert accuracy_table(records)[0] == ["target", "epsilon", "clean", "PGD"]
    records.append(attacked(PARL, "pgd", 0.03, [[1, 1, 0, 0]], num_steps=5, step_size=None))
    names = ["PGD (no step_size)", "PGD (None)"]
    assert accuracy_table(records)[0][3:] == names
    assert [axis.get_title() for axis in accuracy_figure(records).axes] == names


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
    assert "| a\\|b&lt;i> c |" in markdown_table(["target"], [["a|b<i>\nc"]])


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


def test_cka_figure_names_ensembles_with_their_means():
    figure = cka_figure([diversity("cifar10", "unprotected", 0), diversity("cifar10", "parl7", 0)])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == 4
    assert labels[0].startswith("unprotected-seed0: mean 0.7")
    assert len(figure.axes) == 3
    assert figure._repr_png_().startswith(b"\x89PNG")  # for notebooks
    with pytest.raises(InputError, match="one set of images"):
        cka_figure([])
    other = diversity("cifar100", "parl7", 0)
    with pytest.raises(InputError, match="one set of images"):
        cka_figure([diversity("cifar10", "parl7", 0), other])


def test_a_target_without_configuration_is_its_own_setting():
    assert Setting.of(PARL).label == "parl"
    assert Setting.of(card("parl7-at", 0)).label == "PARL/7 + AT"
    assert Setting.of(card("unprotected", 0)).label == "ENS_U"
