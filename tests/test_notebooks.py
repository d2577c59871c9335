"""Notebooks run from top to bottom, at a scale for tests."""

import json
import pathlib

import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SMOKE = {
    "01_quickstart": {
        "epochs": 1,
        "train_examples": 64,
        "num_members": 2,
        "num_layers": 1,
        "num_examples": 8,
        "num_steps": 2,
    },
}


def code_cells(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs(path):
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code_cells(path))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, capsys):
    names = {}
    for cell in code_cells(path):
        exec("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", []):
            assert set(SMOKE[path.stem]) <= set(names)
            names.update(SMOKE[path.stem])
    assert "| parl | 0.1 |" in capsys.readouterr().out
