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

TRAIN = """
import functools, sys
from parl_tf.determinism import enable_determinism
enable_determinism()
import keras, parl_tf
from networks import pooled_network
from parl_tf import training
from parl_tf.recipes import Recipe

class Says(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", flush=True)

class Names(dict):
    def __getitem__(self, name):
        return functools.partial(pooled_network, num_convolutions=1)

training.NETWORKS = Names()
training.DiversityDiagnostics = lambda *_: []
if "slow" in sys.argv:
    save = keras.Model.save
    def save_slowly(self, path):
        save(self, path)
        content = path.read_bytes()
        path.write_bytes(content[:len(content) // 2])
        print("half a checkpoint", flush=True)
        sys.stdin.read()
    keras.Model.save = save_slowly
digits = parl_tf.load_dataset("digits", train_examples=128, validation_fraction=0.02)
recipe = Recipe(epochs=6, batch_size=16)
options = {"recipe": recipe, "num_members": 2, "arguments": {"num_layers": 1}, "verbose": 0}
training.train("parl", digits, sys.argv[1], callbacks=[Says()], **options)
"""


def started(folder, *options):
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, folder, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join([str(pathlib.Path(__file__).parent), *filter(None, sys.path)])},
    )


def kill(process):
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def weights_of(folder):
    model = keras.models.load_model(folder / "model.keras")
    return [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables)]


@pytest.mark.slow
@pytest.mark.xdist_group("killed")
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = started(whole)
    random.seed(0)
    kills = 0
    while not (killed / "model.keras").exists():
        # The first two during the first checkpoint and the second; then at random.
        process = started(killed, *(["slow"] if kills < 2 else []))
        for line in process.stdout:
            if line == "half a checkpoint\n":
                break
            if kills >= 2:
                time.sleep(random.uniform(0, 1))
                break
        if kills == 8:
            _, error = process.communicate()
            assert process.returncode == 0, error
        elif process.poll() is None:
            kill(process)
            kills += 1
    _, error = undisturbed.communicate()
    assert undisturbed.returncode == 0, error
    assert kills >= 4
    assert (whole / "history.csv").read_bytes() == (killed / "history.csv").read_bytes()
    for one, other in zip(weights_of(whole), weights_of(killed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sorted(path.name for path in killed.iterdir()) == [
        "config.json",
        "history.csv",
        "model.keras",
    ]
