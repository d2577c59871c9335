"""Runs all notebooks, or the named ones, and keeps the last picture of each in docs/notebooks."""

import base64
import json
import pathlib
import sys
import tempfile

import papermill

ROOT = pathlib.Path(__file__).parent.parent


def render(notebook: pathlib.Path) -> pathlib.Path:
    """Runs a notebook as it is stored, and writes its last picture into docs/notebooks."""
    with tempfile.TemporaryDirectory() as folder:
        executed = pathlib.Path(folder, notebook.name)
        papermill.execute_notebook(notebook, executed)
        cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    picture = [data["image/png"] for data in outputs if "image/png" in data][-1]
    path = ROOT / "docs" / "notebooks" / f"{notebook.stem}.png"
    path.write_bytes(base64.b64decode("".join(picture)))
    return path


for found in sorted((ROOT / "notebooks").glob("*.ipynb")):
    if found.stem in sys.argv[1:] or len(sys.argv) == 1:
        print(render(found))
