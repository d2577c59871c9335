import json

import keras
import numpy as np
import pytest
from harness.networks import examples, logits_loss, plain_network, residual_network
from harness.run_configs import run_config

import parl_tf
from parl_tf.errors import ExistingRunError, InputError, MissingFileError, UnreadableFileError
from parl_tf.provenance import versions
from parl_tf.training.folders import begin_run, finish_run, load_model, read_config, read_history

CONFIG = run_config("parl", dataset={"name": "digits"})


def ensemble():
    made = parl_tf.PARL([residual_network(0), plain_network(1)], num_layers=2)
    made.compile(loss=logits_loss(), jit_compile=False)
    made.train_on_batch(*examples(4))
    return made


def test_a_run_is_begun_finished_and_loaded(tmp_path):
    model = ensemble()
    folder = begin_run(tmp_path / "runs" / "parl", CONFIG)
    assert read_config(folder) == CONFIG
    finish_run(folder, model)
    loaded, config = load_model(folder)
    assert config == CONFIG
    assert isinstance(loaded, parl_tf.PARL)
    images, _ = examples(3)
    np.testing.assert_array_equal(loaded(images), model(images))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.keras"]


def test_a_bare_keras_file_has_no_configuration(tmp_path):
    plain_network(0).save(tmp_path / "single.keras")
    model, config = load_model(tmp_path / "single.keras")
    assert isinstance(model, keras.Sequential)
    assert config is None


def test_a_finished_run_is_never_begun_again(tmp_path):
    folder = begin_run(tmp_path / "run", CONFIG)
    finish_run(folder, ensemble())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ExistingRunError, match="already holds a finished run"):
        begin_run(folder, run_config())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_unfinished_run_is_started_over(tmp_path):
    folder = begin_run(tmp_path / "run", CONFIG)
    (folder / "history.csv").write_text("epoch,loss\n0,1.0\n")
    begin_run(folder, run_config(seed=1))
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert read_config(folder).seed == 1


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ExistingRunError, match="not a run"):
        begin_run(tmp_path, CONFIG)
    with pytest.raises(ExistingRunError, match="not a run"):
        begin_run(tmp_path / "thesis.tex", CONFIG)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("text", ['{"mine": 1}', '{"dataset": {"name": "x"}}', "not json"])
def test_somebody_elses_configuration_is_left_alone(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "history.csv").write_text("precious")
    with pytest.raises(ExistingRunError, match="not a run"):
        begin_run(tmp_path, CONFIG)
    assert (tmp_path / "config.json").read_text() == text
    assert (tmp_path / "history.csv").read_text() == "precious"


def test_missing_and_unfinished_runs(tmp_path):
    with pytest.raises(MissingFileError, match="No run folder or Keras file"):
        load_model(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match=r"no config\.json"):
        load_model(tmp_path / "empty")
    begin_run(tmp_path / "begun", CONFIG)
    with pytest.raises(MissingFileError, match="no finished run"):
        load_model(tmp_path / "begun")


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04 broken archive"])
def test_a_file_that_is_not_a_keras_model(tmp_path, content):
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(UnreadableFileError, match="not a Keras model"):
        load_model(tmp_path / "model.keras")


def test_a_truncated_keras_file(tmp_path):
    plain_network(0).save(tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "model.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFileError, match="Keras model"):
        load_model(tmp_path / "model.keras")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"dataset": "digits"}', '{"dataset": {}}'])
def test_a_configuration_that_is_not_one(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UnreadableFileError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_model_that_is_no_classifier_to_logits(tmp_path):
    network = plain_network(0)
    keras.Model(network.inputs, keras.layers.Softmax()(network.outputs[0])).save(
        tmp_path / "probabilities.keras"
    )
    with pytest.raises(InputError, match="returns probabilities"):
        load_model(tmp_path / "probabilities.keras")


def test_history_without_validation_has_none_for_it(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n0,1.5,NA\n1,nan,NA\n")
    assert read_history(tmp_path) == [
        {"epoch": 0.0, "loss": 1.5, "val_loss": None},
        {"epoch": 1.0, "loss": None, "val_loss": None},
    ]


def test_versions_are_json_and_name_this_package():
    assert json.loads(json.dumps(versions()))["parl_tf"]


def test_a_folder_left_by_a_kill_in_the_first_write_can_be_begun_in(tmp_path):
    (tmp_path / ".partial-config.json").write_text("{")
    begin_run(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
