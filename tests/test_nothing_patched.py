"""No module of the package changes what belongs to another library."""

import ast
import pathlib

import pytest

import parl_tf

ROOT = pathlib.Path(parl_tf.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
REDIRECTED = {"sys.stdout", "sys.stderr"}  # which Python gives to be assigned
INSIDES = {"__code__", "__globals__", "__closure__", "FunctionType", "CodeType"}


def strangers(tree):
    """Names that stand for modules, classes or functions of other libraries."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] != "parl_tf":
            found |= {alias.asname or alias.name for alias in node.names}
    return found - {"parl_tf"}


def base_of(node):
    """The name that an attribute, item or call begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def offences(source):
    """What a source changes in other libraries, or takes out of their functions."""
    tree = ast.parse(source)
    names = strangers(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            found += [ast.unparse(node)] if base_of(node) in names else []
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("setattr", "delattr"):
            found += [ast.unparse(node)] if base_of(node.args[0]) in names else []
        if isinstance(node, ast.Attribute) and node.attr in INSIDES:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_of_another_library_is_assigned_or_rebuilt(path):
    assert set(offences(path.read_text(encoding="utf-8"))) <= REDIRECTED


@pytest.mark.parametrize(
    "line",
    [
        "tf.nn.relu = None",
        "del tf.nn.relu",
        "tf.nn.__dict__['relu'] = None",
        "setattr(tf.nn, 'relu', None)",
        "step.__wrapped__ = None",
        "types.FunctionType(step.__code__, {})",
    ],
)
def test_a_patch_is_found(line):
    imports = "import types\nimport tensorflow as tf\nfrom cleverhans.steps import step\n"
    assert offences(imports) == []
    assert offences(imports + line)
