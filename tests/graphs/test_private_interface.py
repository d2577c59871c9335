"""Where the package uses what Keras keeps private, and that it changes no library."""

import ast
import pathlib

import keras
import pytest

import parl_tf
from parl_tf.graphs.nodes import origin

ROOT = pathlib.Path(parl_tf.__file__).parent
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))
MAY = {"graphs/nodes.py", "defences/portable.py"}


def private_names():
    """Names of attributes that Keras's objects have and do not show."""
    pixels = keras.Input((2, 2, 1))
    models = [
        keras.Model(pixels, keras.ops.relu(keras.layers.Conv2D(1, 1)(pixels))),
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]),
    ]
    for model in models:
        model.compile(loss="mse", metrics=["mae"])
    objects = [
        *models,
        *models[0].layers,
        models[0].layers[1].kernel,
        pixels,
        origin(models[0].outputs[0]).node,
        models[0].optimizer,
        keras.optimizers.LossScaleOptimizer(models[0].optimizer),
        keras.losses.SparseCategoricalCrossentropy(),
        keras.metrics.Mean(),
        keras.callbacks.Callback(),
        keras.random.SeedGenerator(0),
        keras.layers.BatchNormalization(),
    ]
    names = {name for each in objects for name in dir(each)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


PRIVATE = private_names()


def of_keras(node):
    """Whether a class is a layer or model of Keras's, as ours of these names are."""
    bases = [ast.unparse(base) for base in node.bases]
    ours = ("PortableModel", "CheckedModel", "Ensemble")
    kinds = (
        *ours,
        "keras.Model",
        "keras.Layer",
        "keras.layers.",
        "keras.metrics.",
        "keras.losses.",
    )
    return any(base.startswith(kinds) for base in bases)


def uses_of_private_names(source):
    """Lines that name something private of Keras's, or reach into `keras.src`."""
    tree = ast.parse(source)
    # Within other classes `self` is no object of Keras's.
    own = {
        id(node)
        for other in ast.walk(tree)
        if isinstance(other, ast.ClassDef) and not of_keras(other)
        for node in ast.walk(other)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            if any(name.startswith("keras.src") for name in modules):
                yield node.lineno, "keras.src"
        elif isinstance(node, ast.Attribute):
            if ast.unparse(node).startswith("keras.src"):
                yield node.lineno, "keras.src"
            elif node.attr in PRIVATE and id(node) not in own:
                yield node.lineno, node.attr
        elif isinstance(node, ast.ClassDef) and of_keras(node):
            methods = (each for each in node.body if isinstance(each, ast.FunctionDef))
            yield from ((each.lineno, each.name) for each in methods if each.name in PRIVATE)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            names = (each.value for each in node.args if isinstance(each, ast.Constant))
            yield from ((node.lineno, name) for name in names if name in PRIVATE)


@pytest.mark.parametrize("file", sorted(set(FILES) - MAY))
def test_keras_s_private_interface_is_used_in_two_files_alone(file):
    assert list(uses_of_private_names((ROOT / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("file", sorted(MAY))
def test_those_two_need_it(file):
    assert list(uses_of_private_names((ROOT / file).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "line",
    [
        "layers = model._flatten_layers()",
        "tensor._keras_history.operation",
        "from keras.src.layers import Layer",
        "import keras.src.ops",
        "keras.src.backend.set_keras_mask",
        "getattr(layer, '_inbound_nodes')",
        "class A(keras.Model):\n    def _symbolic_build(self): ...",
        "class A(keras.Layer):\n    def f(self):\n        return self._losses",
    ],
)
def test_a_use_of_it_is_found(line):
    assert list(uses_of_private_names(line))


LIBRARIES = {"tf", "keras", "np", "numpy", "tensorflow"}


def changes_of_libraries(source):
    """Lines that set an attribute of a module of a library."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in LIBRARIES:
                yield node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
            yield node.lineno


# A regularizer belongs to a layer of the user's network, which `penalize_all_weights` is to change.
@pytest.mark.parametrize("file", sorted(set(FILES) - {"models/penalties.py"}))
def test_no_library_is_changed(file):
    assert list(changes_of_libraries((ROOT / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line", ["tf.nn.moments = f", "setattr(tf.nn, name, f)", "keras.ops.nn.relu += 1"]
)
def test_a_change_of_one_is_found(line):
    assert list(changes_of_libraries(line))
