"""What `parl_tf.__all__` promises: every name is there, documented, and its example runs."""

import ast
import configparser
import doctest
import importlib
import inspect
import io
import itertools
import pathlib
import re
import subprocess
import sys

import keras
import pytest

import parl_tf

ROOT = pathlib.Path(__file__).parents[1]
REGISTRIES = {
    "ATTACKS": parl_tf.attacks,
    "AUGMENTATIONS": parl_tf.data.augmentation,
    "METHODS": parl_tf.defences,
    "NETWORKS": parl_tf.models,
    "PROTOCOLS": parl_tf.protocols,
}
DOCUMENTED = sorted(set(parl_tf.__all__) - {"__version__"})
# They change the whole process, before TensorFlow has begun to compute in it.
IN_A_PROCESS_OF_THEIR_OWN = ["enable_determinism", "spread_over"]
TRAINING = ["resume", "train"]


def docstring_of(name):
    """The docstring of a public object; a registry's stands below its assignment."""
    if name not in REGISTRIES:
        return inspect.getdoc(getattr(parl_tf, name)) or ""
    body = ast.parse(pathlib.Path(REGISTRIES[name].__file__).read_text(encoding="utf-8")).body
    for statement, following in itertools.pairwise(body):
        target = getattr(statement, "target", None) or getattr(statement, "targets", [None])[0]
        if getattr(target, "id", None) == name and isinstance(following, ast.Expr):
            return inspect.cleandoc(following.value.value)
    return ""


def examples_of(name, namespace):
    """The doctests of a public object: its own, and those of its methods."""
    if name in REGISTRIES:
        parsed = doctest.DocTestParser().get_doctest(docstring_of(name), namespace, name, name, 0)
        return [parsed] if parsed.examples else []
    value = getattr(parl_tf, name)
    module = sys.modules[value.__module__]
    return doctest.DocTestFinder(exclude_empty=True).find(value, name, module, globs=namespace)


def run(tests, **options):
    """Runs doctests."""
    runner, output = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), io.StringIO()
    for test in tests:
        runner.run(test, out=output.write, **options)
    assert runner.tries
    assert not runner.failures, output.getvalue()


@pytest.fixture(scope="module")
def shared():
    """What examples go on from: the example of the package."""
    (example,) = doctest.DocTestFinder(recurse=False).find(parl_tf, globs={})
    run([example], clear_globs=False)
    return example.globs


@pytest.fixture
def namespace(shared, tmp_path, monkeypatch):
    """A namespace for one example, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return dict(shared)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_has_a_docstring_with_an_example_that_is_not_skipped(name):
    tests = examples_of(name, {})
    assert docstring_of(name)
    assert any(test.examples for test in tests), "no line >>>"
    for test in tests:
        assert re.search(r"^ *Example:$", test.docstring, re.MULTILINE) or not test.examples
    for example in (each for test in tests for each in test.examples):
        assert not example.options.get(doctest.SKIP), example.source


@pytest.mark.parametrize("name", sorted({*DOCUMENTED} - {*IN_A_PROCESS_OF_THEIR_OWN, *TRAINING}))
def test_the_example_runs(name, namespace):
    run(examples_of(name, namespace))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_the_example_of_a_training_runs(name, namespace):
    class Interruption(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    if name == "resume":  # takes for given a run that was interrupted
        recipe = parl_tf.Recipe(epochs=2, batch_size=32, network="resnet8")
        options = {"recipe": recipe, "num_members": 2, "verbose": 0}
        with pytest.raises(KeyboardInterrupt):
            parl_tf.train(
                "unprotected",
                namespace["dataset"],
                "runs/interrupted",
                callbacks=Interruption(),
                **options,
            )
    run(examples_of(name, namespace))


def test_examples_that_change_the_whole_process_run_in_another():
    code = (
        "import doctest, parl_tf, sys\n"
        "runner = doctest.DocTestRunner()\n"
        "for name in sys.argv[1:]:\n"
        "    found = doctest.DocTestFinder().find(getattr(parl_tf, name), name, globs=vars())\n"
        "    runner.run(*found)\n"
        "sys.exit(bool(runner.failures))\n"
    )
    names = IN_A_PROCESS_OF_THEIR_OWN
    ended = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_name_resolves_and_is_there_once():
    assert len(set(parl_tf.__all__)) == len(parl_tf.__all__)
    for name in parl_tf.__all__:
        assert hasattr(parl_tf, name), name


def test_what_is_registered_is_public():
    public = {getattr(parl_tf, name) for name in DOCUMENTED if name not in REGISTRIES}
    for registry in (parl_tf.METHODS, parl_tf.ATTACKS):
        for name, registered in registry.items():
            assert registered in public, f"{name} is not in parl_tf.__all__"


def test_every_package_says_what_of_it_is_public():
    for name, package in REGISTRIES.items():
        assert name in package.__all__
    assert set(importlib.import_module("parl_tf.report").__all__) <= set(parl_tf.__all__)


def test_the_version_is_that_of_the_metadata():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert parl_tf.__version__ == setup["metadata"]["version"]


def test_a_checkout_that_is_not_installed_says_that_it_knows_no_version(tmp_path):
    code = (
        "import importlib.metadata, parl_tf_tools\n"
        "parl_tf_tools.is_tool = True\n"
        "def missing(name):\n    raise importlib.metadata.PackageNotFoundError(name)\n"
        "importlib.metadata.version = missing\n"
        "import parl_tf\nprint(parl_tf.__version__)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout == "0+unknown\n", ended.stderr
