"""The same bits from one process to the next, however busy the machine is."""

import contextlib
import importlib
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf
from harness.run_configs import run_config

from parl_tf.cli import train
from parl_tf.defences import METHODS
from parl_tf.errors import InputError
from parl_tf.runtime.determinism import enable_determinism, is_deterministic
from parl_tf.training.folders import begin_run
from parl_tf.training.resuming import resume
from parl_tf_tools import TOOLS

# Prints one hash a repetition of the same training step, validation and white-box attack.
REPETITIONS = """
import hashlib, sys
from parl_tf.runtime.determinism import enable_determinism
enable_determinism()
import keras, numpy as np
import parl_tf
from harness.networks import logits_loss
from parl_tf.defences import METHODS
from parl_tf.models import NETWORKS

method, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
members = [NETWORKS["resnet8"](10, seed=seed + index) for index in range(3)]
moving = dict(adversarial_training={"num_steps": 2}) if method == "parl" else {}
ensemble = METHODS[method](members, seed=seed, **moving)
ensemble.compile(optimizer=parl_tf.FusedAdam(), loss=logits_loss())
draw = np.random.default_rng(0)
images, labels = draw.random((32, 32, 32, 3), dtype=np.float32), draw.integers(0, 10, 32)
if method == "dverge":
    ensemble.begin_epoch(0, 1)
ensemble.build_optimizer()
craft = parl_tf.PGD(num_steps=3, restarts=1).prepare(ensemble)
before = [variable.numpy() for variable in (*ensemble.variables, *ensemble.optimizer.variables)]
for _ in range(count):
    for variable, value in zip(
        (*ensemble.variables, *ensemble.optimizer.variables), before, strict=True
    ):
        variable.assign(value)
    ensemble.train_on_batch(images, labels)
    logs = ensemble.evaluate(images, labels, verbose=0, return_dict=True)
    attacked = craft(images, labels, epsilon=0.03, seed=0, restart=0)
    found = [*ensemble.get_weights(), np.array(list(logs.values())), attacked]
    print(hashlib.sha256(b"".join(array.tobytes() for array in found)).hexdigest())
"""


@contextlib.contextmanager
def busy_machine():
    """Keeps every core busy with something else."""
    loop = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(loop) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def begin(program, *arguments, **environment):
    """Starts a Python program that may import from the tests."""
    path = os.pathsep.join([str(pathlib.Path(__file__).parents[1]), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


def lines_of(process):
    output, error = process.communicate()
    assert process.returncode == 0, error
    return output.split("\n")[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("onednn", ["1", "0"])
def test_on_a_busy_machine_every_repetition_and_process_has_the_same_bits(onednn):
    chosen = {"TF_ENABLE_ONEDNN_OPTS": onednn}
    # With several operations at a time 20 of 30 repetitions differed; with the graph optimizer
    # on, so did each of three processes.
    with busy_machine():
        same = [begin(REPETITIONS, "parl", 0, 12, **chosen) for _ in range(2)]
        # What the environment says of threads does not undo it.
        same.append(begin(REPETITIONS, "parl", 0, 2, TF_NUM_INTEROP_THREADS="4", **chosen))
        hashes = [line for process in same for line in lines_of(process)]
    assert len(hashes) == 12 + 12 + 2
    assert len(set(hashes)) == 1
    assert lines_of(begin(REPETITIONS, "parl", 5, 1, **chosen)) != hashes[:1]


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"parl"}))
def test_every_method_has_the_same_bits_in_two_processes(method):
    processes = [begin(REPETITIONS, method, 0, 3) for _ in range(2)]
    hashes = [line for process in processes for line in lines_of(process)]
    assert len(hashes) == 6
    assert len(set(hashes)) == 1


# Prints how many operations run at a time, whether the graph optimizer is off and TensorFlow's own
# switch on.
REPORT = """
import sys
def report(*arguments, **options):
    import tensorflow as tf
    tf.constant(1) + 1
    print(tf.config.threading.get_inter_op_parallelism_threads(), end=" ")
    print(tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer"), end=" ")
    try:
        tf.random.uniform([])  # without a seed
        print("varies")
    except RuntimeError:
        print("deterministic")
    raise KeyboardInterrupt
"""
TOOL = (
    REPORT
    + """
import importlib
from parl_tf.cli import common
tool = importlib.import_module(sys.argv[1])
tool.run = lambda body, **options: common.run(report, **options)
sys.exit(tool.main(sys.argv[2:]) - 130)
"""
)
RESUME = (
    REPORT
    + """
from parl_tf.training import resuming
resuming.load_dataset = report
try:
    resuming.resume(sys.argv[1])
except KeyboardInterrupt:
    sys.exit(0)
"""
)
REQUIRED = {
    "parl_tf.cli.train": ["--method", "parl", "--dataset", "digits", "--out", "nowhere"],
    "parl_tf.cli.attack": ["--target", "nowhere"],
    "parl_tf.cli.diversity": ["--target", "nowhere", "--out", "nowhere.json"],
}


def deterministic_tools():
    """Modules of the tools that take --deterministic."""
    found = set()
    for name in (f"parl_tf.cli.{tool}" for tool in TOOLS):
        parser = getattr(importlib.import_module(name), "parser", None)
        if parser and "--deterministic" in parser().format_help():
            found.add(name)
    return found


@pytest.mark.slow
def test_every_tool_and_resume_run_one_operation_at_a_time(tmp_path):
    assert deterministic_tools() == set(REQUIRED)
    begun = begin_run(tmp_path / "run", deterministic_config(devices=2))
    processes = {
        name: begin(TOOL, name, *given, "--deterministic") for name, given in REQUIRED.items()
    }
    processes["resume"] = begin(RESUME, begun)
    found = {name: lines_of(process) for name, process in processes.items()}
    assert found == {key: ["1 True deterministic"] for key in processes}


@pytest.mark.slow
def test_without_being_asked_for_nothing_is_changed():
    name = "parl_tf.cli.attack"
    assert lines_of(begin(TOOL, name, *REQUIRED[name])) == ["0 False varies"]


def deterministic_config(devices=1):
    """The configuration of a run that was begun with --deterministic."""
    return run_config(
        dataset={"name": "digits", "train_examples": 64, "validation_examples": 16},
        num_members=2,
        deterministic=True,
        devices=devices,
    )


def test_once_tensorflow_computes_it_is_too_late_and_said(tmp_path, capsys):
    tf.constant(1) + 1
    with pytest.raises(InputError, match="already begun to compute.*in a new process"):
        enable_determinism()
    assert not is_deterministic()
    run = begin_run(tmp_path / "run", deterministic_config())
    with pytest.raises(InputError, match="already begun to compute"):
        resume(run)
    options = [*REQUIRED["parl_tf.cli.train"][:-1], str(tmp_path / "new")]
    assert train.main([*options, "--deterministic"]) == 2
    assert "in a new process" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
