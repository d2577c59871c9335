"""A whole report of a small grid: its texts, figures and page."""

import base64
import csv
import dataclasses
import html.parser
import json
import os
import pathlib
import re

import pytest
from harness.report_records import (
    card,
    hyperparameters,
    record,
    surrogate,
    write_grid,
    write_records,
)

from parl_tf.cli import report as tool
from parl_tf.report.figures.curves import black_box_figure
from parl_tf.report.figures.drawing import figure_bytes
from parl_tf.report.figures.paper import draw_all, file_names
from parl_tf.report.page.writing import write_report
from parl_tf.report.records.agreement import agreed
from parl_tf.report.records.collection import collect
from parl_tf.report.tables.formats import text_rows
from parl_tf.results.records import ModelCard

pytestmark = pytest.mark.xdist_group("report")  # they share one report

STORED = pathlib.Path(__file__).parents[1] / "data" / "report"
VOID = {"meta", "img", "br", "link"}


class Page(html.parser.HTMLParser):
    """What a page holds; raises for tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.tags, self.cells = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += text

    def values(self, attribute):
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_grid(tmp_path_factory.mktemp("grid") / "results")


@pytest.fixture(scope="module")
def written(results):
    """The report and its folder."""
    out = results.parent / "report"
    return write_report([results], out), out


@pytest.fixture(scope="module")
def page(written):
    return Page((written[1] / "index.html").read_text())


@pytest.fixture(scope="module")
def drawings(results):
    return draw_all(agreed(collect([results])))


def test_texts_are_those_that_are_stored(written):
    _, out = written
    texts = {path.name for path in out.iterdir() if path.suffix in (".md", ".csv", ".tex")}
    assert texts == {path.name for path in STORED.iterdir()}
    for name in texts:
        assert (out / name).read_bytes() == (STORED / name).read_bytes(), name


def test_csv_holds_every_cell_as_a_number(written):
    report, out = written
    for table in report.tables:
        with open(out / f"{table.name}.csv", newline="") as file:
            lines = list(csv.DictReader(file))
        cells = [cell for block in table.blocks for row in block.rows for cell in row.cells]
        assert len(lines) == len(cells)
        for line, cell in zip(lines, cells, strict=True):
            given = None if line["mean"] == "" else float(line["mean"])
            assert given == (None if cell.mean is None else pytest.approx(cell.mean))
            assert (line["note"] == cell.note) or cell.note.startswith(("=", "+", "-", "@"))


def test_page_is_whole_and_needs_nothing_else(page):
    assert len(page.ids) == len(set(page.ids))
    for link in page.values("href"):
        assert link.removeprefix("#") in page.ids, link
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.values("src"))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")


def test_page_holds_every_number_and_where_it_is_from(written, page):
    report, out = written
    text = (out / "index.html").read_text()
    assert "@import" not in text
    assert "url(" not in text
    for table in report.tables:
        for block in table.blocks:
            for row in text_rows(block):
                assert set(row) <= set(page.cells)
    numbers = [c for t in report.tables for b in t.blocks for r in b.rows for c in r.cells]
    linked = re.findall(r'<td><a href="#(N\d+|paper)">', text)
    assert len(linked) == sum(
        1 for cell in numbers if cell.origins or (cell.published and cell.mean)
    )
    for file in ("cifar10/black-box.json", "cifar100/white-box.json"):
        assert file in page.cells
    checksum = json.loads((out.parent / "results" / "cifar10" / "black-box.json").read_text())
    assert checksum["checksum"] in page.cells
    assert "cifar10-parl7-1" in page.cells


def test_figures_are_there_and_the_same_every_time(written, page, drawings):
    report, out = written
    assert report.not_run == []
    for drawing in drawings:
        assert (out / f"{drawing.name}.png").read_bytes().startswith(b"\x89PNG")
        assert drawing.name in page.ids
    drawing = next(drawing for drawing in drawings if drawing.name == "figure3-cifar100")
    svg = (out / "figure3-cifar100.svg").read_bytes()
    assert figure_bytes(drawing.figure, "svg") == svg
    image = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    assert image in page.values("src")


def test_figures_name_every_series(drawings):
    by_name = {drawing.name: drawing.figure for drawing in drawings}
    assert set(by_name) == {
        *(f"figure{number}-cifar10" for number in range(1, 7)),
        *(f"figure{number}-cifar100" for number in (3, 4, 5)),
    }
    labels = {name: legend(figure) for name, figure in by_name.items()}
    assert labels["figure3-cifar10"] == [
        *("ENS_U (2 seeds)", "ADP (2 seeds)", "PARL/7 (2 seeds)", "Guardian/7 (1 seed)"),
        *("PARL/5 (2 seeds)", "PARL/3 (2 seeds)", "PARL/7 + AT (2 seeds)"),
    ]
    assert labels["figure5-cifar10"] == [
        *("PARL/7 (2 seeds)", "PARL/5 (2 seeds)", "PARL/3 (2 seeds)"),
    ]
    starts = [label.split(":")[0] for label in labels["figure2-cifar10"]]
    assert starts == ["ENS_U", "ENS_U, unbiased", "PARL/7", "PARL/7, unbiased"]
    titles = [axis.get_title() for axis in by_name["figure3-cifar10"].axes]
    assert titles == ["FGSM", "BIM", "MIM", "PGD", "PGD worst", "MI-FGSM"]
    assert "n = 40" in by_name["figure3-cifar10"].get_suptitle()


def legend(figure):
    """Labels of a figure's legend."""
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def shown(axis):
    """Labels of the ticks that are drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [tick.label1 for tick in ticks if tick.label1.get_visible()]


def test_no_text_lies_on_another(drawings):
    for drawing in drawings:
        figure = drawing.figure
        figure.draw_without_rendering()
        texts = [text for axis in figure.axes for text in (axis.title, axis.xaxis.label)]
        texts += [axis.yaxis.label for axis in figure.axes]
        for axis in figure.axes:
            texts += list(axis.texts)
            if axis.axison:
                texts += [*shown(axis.xaxis), *shown(axis.yaxis)]
        boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text().strip()]
        boxes += [("legend", box.get_window_extent()) for box in figure.legends]
        boxes.append(("title", figure._suptitle.get_window_extent()))
        visible = figure.bbox.padded(1)
        for index, (text, box) in enumerate(boxes):
            assert visible.x0 <= box.x0, (drawing.name, text)
            assert box.x1 <= visible.x1, (drawing.name, text)
            for other, other_box in boxes[index + 1 :]:
                assert not box.padded(-0.5).overlaps(other_box.padded(-0.5)), (
                    drawing.name,
                    text,
                    other,
                )


def test_names_of_strangers_are_shown_and_not_run(tmp_path):
    name = '<script>alert("$x_1")</script>|\n&{%}[/b]'
    target = ModelCard(name=name, fingerprint="<b>")
    attacked = record(
        target=target,
        threat_model="black_box",
        surrogate=ModelCard(name="=HYPERLINK(1)", fingerprint="</a>"),
        attack="pgd",
        hyperparameters=hyperparameters("pgd", loss="<i>"),
        epsilon=0.07,
        data={"name": "../<u>", "fingerprint": "0", "num_examples": 40},
        correct=[[1] * 40] * 2,
        versions={"<s>": "</td>"},
    )
    white_box = {"threat_model": "white_box", "surrogate": None, "protocol": "diagnostics"}
    checked = dataclasses.replace(attacked, **white_box, attack="<q>")
    write_records([attacked, checked], tmp_path / "<em>.json", finished=False)
    write_report([tmp_path / "<em>.json"], tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text()
    page = Page(text)
    assert 'alert("$x_1")</script>| &{%}[/b]' in "".join(page.cells)
    assert not {"script", "b", "i", "u", "s", "em", "q"} & {tag for tag, _ in page.tags}
    assert tool.main([str(tmp_path / "<em>.json"), "--out", str(tmp_path / "out")]) == 0
    assert r"\textless{}script\textgreater{}" in (tmp_path / "out" / "table1.tex").read_text()
    assert "&lt;script>" in (tmp_path / "out" / "table1.md").read_text()
    assert (tmp_path / "out" / "figure3.png").exists()


def test_names_of_figures():
    assert file_names(["cifar10"]) == {"cifar10": ""}
    assert file_names(["a/b", "a b", "…"]) == {"a/b": "-a-b", "a b": "-a-b-2", "…": "-images"}


def test_a_name_with_an_underscore_has_its_place_in_the_legend(tmp_path):
    target = ModelCard(name="_mine", fingerprint="1")
    common = {"threat_model": "black_box", "surrogate": surrogate(0), "attack": "fgsm"}
    write_records([record(target=target, epsilon=0.1, **common)], tmp_path / "a.json")
    figure, _ = black_box_figure(agreed(collect([tmp_path])), "cifar10")
    assert [label.strip() for label in legend(figure)] == ["_mine (1 seed)"]


def test_tool_prints_one_document(tmp_path, capsys):
    results = write_records([record(card("parl7", 0))], tmp_path / "a.json")
    assert tool.main([str(results), "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert "index.html" in document["files"]
    assert len(document["not_run"]) == 6
    found = [
        c for c in document["tables"]["table1"] if (c["row"], c["column"]) == ("PARL/7", "clean")
    ]
    assert [cell["text"] for cell in found] == ["100.0", "not run"]
    assert "Report:" in printed.err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere"], 3, "No results file or folder"),
        (["broken.json"], 3, "not JSON"),
        (["a.json", "--epsilon", "0.5"], 2, "Expected an epsilon that was run"),
        (["empty"], 2, "Expected result records"),
    ],
)
def test_tool_ends_in_a_message(tmp_path, monkeypatch, capsys, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    attacked = record(threat_model="black_box", surrogate=surrogate(0), attack="fgsm", epsilon=0.1)
    write_records([attacked], tmp_path / "a.json")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty").mkdir()
    assert tool.main([*arguments, "--out", "out"]) == status
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "out").exists()


def test_script_is_executable():
    assert os.access(pathlib.Path(__file__).parents[2] / "bin" / "parl-report", os.X_OK)
