"""Notebooks run from top to bottom, at a scale for tests."""

import json
import pathlib

import papermill
import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMMON = {"epochs": 1, "train_examples": 64, "num_members": 2, "num_examples": 8, "num_steps": 2}
SMALL = {"network": "resnet8"}
SMOKE = {
    "01_quickstart": {**COMMON, **SMALL, "num_layers": 1},
    "02_table1_transfer": {**COMMON, **SMALL},
    "03_table2_layers": {**COMMON, **SMALL},
    "04_diversity_cka": {**COMMON, **SMALL},
    "05_bring_your_own_model": COMMON,
}
PRINTED = {
    "01_quickstart": "| parl | 0.1 |",
    "02_table1_transfer": "| worst over all |",
    "03_table2_layers": "| PARL/5 | 0.15 |",
    "04_diversity_cka": "| PARL/7 |",
    "05_bring_your_own_model": "| one member | 0.05 |",
}


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs_and_with_a_picture(path):
    for cell in cells(path):
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            assert cell["execution_count"] is None
    (parameters,) = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", ())]
    names = {}
    exec("".join(parameters["source"]), names)
    assert set(SMOKE[path.stem]) <= set(names)
    assert (ROOT / "docs" / "notebooks" / f"{path.stem}.png").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the notebook machinery
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, tmp_path):
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(path, out, SMOKE[path.stem], progress_bar=False)
    outputs = [output for cell in cells(out) for output in cell.get("outputs", ())]
    text = "".join("".join(output.get("text", "")) for output in outputs)
    assert PRINTED[path.stem] in text
    assert any("image/png" in output.get("data", ()) for output in outputs)
