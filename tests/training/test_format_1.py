"""What the version before configurations had a type left behind: loaded, resumed, reported.

`tests/data/format_1/` was made at commit ed08c08, the last that wrote format 1, with the networks
of `networks.pooled_network` under the name of ResNet8: `train("parl", ...)` on 64 digits for two
epochs of SGD, deterministic, once to its end and once interrupted after the first epoch; then
`parl-attack` and `parl-diversity` on the finished run. Two options of Keras 3.15, both null, were
taken out of the models' configurations afterwards, so that Keras 3.14 reads them too.

`tests/data/format_2/config.json` is the unfinished run's as commit 05d7e35 wrote it, the last of
format 2.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import parl_tf
from parl_tf.report.page.writing import write_report
from parl_tf.results.diversity import load_diversity
from parl_tf.results.files import load_records
from parl_tf.results.settings import Setting
from parl_tf.training.folders import find_checkpoints, load_model, read_config, read_history
from parl_tf.training.recipe import Recipe

FORMAT_2 = pathlib.Path(__file__).parents[1] / "data" / "format_2" / "config.json"
MADE = pathlib.Path(__file__).parents[1] / "data" / "format_1"
RESUME = """
import functools, sys
from harness.networks import pooled_network
from parl_tf.training import building
from parl_tf.training.resuming import resume

class Names(dict):
    def __getitem__(self, name):
        return pooled_network

building.NETWORKS = Names()
resume(sys.argv[1], verbose=0)
"""


@pytest.mark.parametrize(
    ("run", "form"),
    [(MADE / "finished", 1), (MADE / "unfinished", 1), (FORMAT_2.parent, 2)],
)
def test_its_configuration_is_read_with_what_came_later(run, form):
    assert json.loads((run / "config.json").read_text())["format"] == form
    config = read_config(run)
    assert (config.method, config.seed, config.num_members) == ("parl", 3, 2)
    assert (config.arguments["num_layers"], config.arguments["cosine"]) == (7, "signed")
    assert config.recipe == Recipe(
        epochs=2,
        batch_size=16,
        optimizer="sgd",
        learning_rate=0.01,
        network="resnet8",
        kernel_penalty=0.125,
        penalized="convolutions",
        pixel_deviation="data_set",
        augmentation="black-crops-4",
    )
    assert (config.dataset.name, config.dataset.train_examples) == ("digits", 64)
    assert (config.deterministic, config.devices, config.commit) == (True, 1, None)


def test_its_finished_run_is_loaded_and_is_what_was_evaluated():
    ensemble, config = load_model(MADE / "finished")
    assert isinstance(ensemble, parl_tf.PARL)
    (clean, attacked) = load_records(MADE / "attacked.json")
    assert parl_tf.provenance.weights_fingerprint(ensemble) == clean.target.fingerprint
    assert clean.target.config == attacked.target.config == config
    assert load_diversity(MADE / "diversity.json").target == clean.target


@pytest.mark.slow
def test_its_unfinished_run_is_resumed_and_ends_as_it_would_have(tmp_path):
    ends = []
    for name in ("format 1", "format 2"):
        run = tmp_path / name
        shutil.copytree(MADE / "unfinished", run)
        if name == "format 2":
            shutil.copy(FORMAT_2, run)
        assert list(find_checkpoints(run)) == [1]
        environment = {"PYTHONPATH": ":".join([str(MADE.parents[1]), *filter(None, sys.path)])}
        done = subprocess.run(
            [sys.executable, "-c", RESUME, run], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        ends.append([*load_model(run)[0].get_weights()])
        assert read_config(run) == read_config(MADE / "finished")
        assert [row["epoch"] for row in read_history(run)] == [0, 1]
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)
    # Other processors and versions of TensorFlow round otherwise.
    checkpoint = [*load_model(MADE / "unfinished" / "checkpoint-0001.keras")[0].get_weights()]
    expected = [*load_model(MADE / "finished")[0].get_weights()]
    for found, end in zip(ends[0], expected, strict=True):
        np.testing.assert_allclose(found, end, rtol=0, atol=1e-6)
    assert max(np.abs(a - b).max() for a, b in zip(checkpoint, expected, strict=True)) > 1e-3


def test_its_results_are_reported(tmp_path):
    write_report([MADE], tmp_path / "report")
    page = (tmp_path / "report" / "worst.md").read_text()
    table = (tmp_path / "report" / "diversity.md").read_text()
    assert "| PARL/7 | 1 |" in table
    assert "Targets were trained for 2 epochs of 64 images." in table
    assert page
    settings = {Setting.of(r.target) for r in load_records(MADE / "attacked.json")}
    assert settings == {Setting(method="parl", num_layers=7)}
