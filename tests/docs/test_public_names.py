"""Notebooks, README, docs and docstrings use no other names than those of `parl_tf.__all__`."""

import ast
import doctest
import inspect
import json
import pathlib
import re

import pytest

import parl_tf

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def not_public(code):
    """What a piece of Python takes from the package that is not public."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.startswith("parl_tf.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("parl_tf."):
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "parl_tf":
            found |= {name.name for name in node.names} - set(parl_tf.__all__)
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "parl_tf":
            found |= {f"parl_tf.{node.attr}"} - {f"parl_tf.{name}" for name in parl_tf.__all__}
    return found


def not_public_in_text(text):
    """What a page of Markdown tells to take from the package that is not public."""
    code = re.findall(r"^ *```(?:python|py)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    found = set().union(*(not_public(inspect.cleandoc(block)) for block in code))
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(r"`[^`\n]*?\bparl_tf\.([A-Za-z_]\w*)", prose):
        found |= {f"parl_tf.{name}"} - {f"parl_tf.{public}" for public in parl_tf.__all__}
    return found


def code_of(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_public_names(path):
    assert "parl_tf." in code_of(path)
    assert not not_public(code_of(path))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_uses_public_names(path):
    assert not not_public_in_text(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", parl_tf.__all__)
def test_an_example_uses_public_names(name):
    docstrings = doctest.DocTestFinder().find(getattr(parl_tf, name), name, globs={})
    assert not not_public("".join(e.source for found in docstrings for e in found.examples))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import parl_tf\nparl_tf.PARL(members)\nparl_tf.METHODS['parl']", set()),
        ("from parl_tf import PARL, nothing", {"nothing"}),
        ("import parl_tf.runtime.devices as d", {"parl_tf.runtime.devices"}),
        ("from parl_tf.models import NETWORKS", {"parl_tf.models.NETWORKS"}),
        ("parl_tf.runtime.determinism.enable_determinism()", {"parl_tf.runtime"}),
    ],
)
def test_other_names_are_noticed(code, found):
    assert not_public(code) == found
    page = f"Say\n\n```python\n{code}\n```\n\nand `f(parl_tf.PGD())`, in `parl_tf/errors.py`."
    assert not_public_in_text(page) == found
    assert not_public_in_text("or `parl_tf.files.write_json`") == {"parl_tf.files"}
