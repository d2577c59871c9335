"""Trainings whose process is killed, again and again."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from parl_tf.training.folders import find_checkpoints

TRAIN = """
import functools, resource, signal, sys
from parl_tf.runtime.determinism import enable_determinism
enable_determinism()
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if begun in the background
import keras, parl_tf
from harness.networks import pooled_network
from parl_tf.training import building, fitting as training
from parl_tf.cli.common import run
from parl_tf.training.recipe import Recipe

class Says(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", flush=True)

class Names(dict):
    def __getitem__(self, name):
        return functools.partial(pooled_network, num_convolutions=1)

building.NETWORKS = Names()
training.DiversityDiagnostics = lambda *_: []
if "slow" in sys.argv:  # stops in the middle of its second checkpoint
    save, saved = keras.Model.save, []
    def save_slowly(self, path, **options):
        save(self, path, **options)
        saved.append(path)
        if len(saved) == 2:
            content = path.read_bytes()
            path.write_bytes(content[:len(content) // 2])
            print("half a checkpoint", flush=True)
            sys.stdin.read()
    keras.Model.save = save_slowly
if "full" in sys.argv:  # no room for a checkpoint
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
digits = parl_tf.load_dataset("digits", train_examples=128, validation_fraction=0.02)
recipe = Recipe(epochs=6, batch_size=16)
options = {"recipe": recipe, "num_members": 2, "arguments": {"num_layers": 1}, "verbose": 0}
sys.exit(run(
    lambda: training.train("parl", digits, sys.argv[1], callbacks=[Says()], **options),
    print_json=False,
))
"""


def started(folder, *options):
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, folder, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PYTHONPATH": ":".join(
                [str(pathlib.Path(__file__).parents[1]), *filter(None, sys.path)]
            )
        },
    )


def weights_of(folder):
    model = keras.models.load_model(folder / "model.keras")
    return [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables)]


def wait_for(process, line):
    for found in process.stdout:
        if found.strip() == line:
            return
    raise AssertionError(f"{line!r} was not said: {process.communicate()[1]}")


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_if_it_had_not_been(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = started(whole)

    def ended_by(number, status, *options, line="step", pause=0.0):
        process = started(killed, *options)
        wait_for(process, line)
        time.sleep(pause)
        process.send_signal(number)
        _, error = process.communicate()
        # One that is quick may just have ended by itself.
        assert process.returncode == status or (killed / "model.keras").exists(), error

    # In the middle of the second checkpoint; the first is continued.
    ended_by(signal.SIGKILL, -signal.SIGKILL, "slow", line="half a checkpoint")
    assert list(find_checkpoints(killed)) == [1]
    ended_by(signal.SIGTERM, 143)
    ended_by(signal.SIGINT, 130)
    # No room for a checkpoint: said, and the one that is there stays.
    full = started(killed, "full")
    _, error = full.communicate()
    assert full.returncode == 1
    assert "No space left for" in error
    assert "Traceback" not in error
    assert 1 in find_checkpoints(killed)
    random.seed(0)
    for _ in range(5):
        if not (killed / "model.keras").exists():
            ended_by(signal.SIGKILL, -signal.SIGKILL, pause=random.uniform(0, 0.4))
    if not (killed / "model.keras").exists():
        last = started(killed)
        _, error = last.communicate()
        assert last.returncode == 0, error
    _, error = undisturbed.communicate()
    assert undisturbed.returncode == 0, error
    assert (whole / "history.csv").read_bytes() == (killed / "history.csv").read_bytes()
    for one, other in zip(weights_of(whole), weights_of(killed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sorted(path.name for path in killed.iterdir() if path.suffix != ".sha256") == [
        "config.json",
        "history.csv",
        "model.keras",
    ]
