import dataclasses
import hashlib

import numpy as np
import pytest
from harness.networks import examples, logits_loss, plain_network
from harness.run_configs import run_config

import parl_tf
from parl_tf.errors import InputError
from parl_tf.files import sha256_of, write_json
from parl_tf.provenance import versions
from parl_tf.runtime.determinism import is_deterministic
from parl_tf.training.checkpoints import Checkpoints, continue_run
from parl_tf.training.folders import begin_run, find_checkpoints, finish_run, save_checkpoint
from parl_tf.training.resuming import resume
from parl_tf.training.warm_start import check_own_start

CONFIG = run_config(arguments={"shape": (1, 2)}, versions={"keras": "3.15.1"}, commit="f00d")
HEADER, LINES = "epoch,loss\r\n", ["0,1.5\r\n", "1,1.25\r\n", "2,1.125\r\n"]


@pytest.fixture(scope="module")
def ensemble():
    made = parl_tf.Ensemble([plain_network(0), plain_network(1)])
    made.compile(optimizer="adam", loss=logits_loss(), jit_compile=False)
    made.train_on_batch(*examples(4))
    return made


@pytest.fixture
def run(tmp_path, ensemble):
    """A run that was killed between the second epoch's line of history and its checkpoint."""
    folder = begin_run(tmp_path / "run", CONFIG)
    (folder / "history.csv").write_bytes((HEADER + "".join(LINES[:2])).encode())
    save_checkpoint(folder, ensemble, 1)
    return folder


def history(folder):
    return (folder / "history.csv").read_bytes().decode()


def test_a_run_continues_with_its_optimizer_after_its_last_checkpoint(run, ensemble, caplog):
    continued, epochs = continue_run(run, CONFIG)
    assert epochs == 1
    for found, expected in (
        *zip(continued.get_weights(), ensemble.get_weights(), strict=True),
        *zip(continued.optimizer.variables, ensemble.optimizer.variables, strict=True),
    ):
        np.testing.assert_array_equal(found, expected)
    assert history(run) == HEADER + LINES[0]
    assert not caplog.text


def sign(path):
    """Writes the checksum that fits a checkpoint, as sha256sum does."""
    path.with_name(f"{path.name}.sha256").write_text(f"{sha256_of(path)}  {path.name}\n")


def test_the_last_two_checkpoints_stay(run, ensemble):
    callback = Checkpoints(run)
    callback.set_model(ensemble)
    callback.on_epoch_end(1, {"loss": 1.25})
    for loss in (float("nan"), float("inf")):
        callback.on_epoch_end(2, {"loss": loss})
    assert sorted(find_checkpoints(run)) == [1, 2]
    callback.on_epoch_end(2, {"loss": 1.0})
    assert find_checkpoints(run) == {n: run / f"checkpoint-000{n}.keras" for n in (2, 3)}
    files = [f"checkpoint-000{n}.keras{end}" for n in (2, 3) for end in ("", ".sha256")]
    assert sorted(path.name for path in run.iterdir()) == [*files, "config.json", "history.csv"]
    # One that is behind another, as after a damaged one: what is ahead of it goes.
    save_checkpoint(run, ensemble, 1)
    assert list(find_checkpoints(run)) == [1]


@pytest.mark.parametrize("part", [0.01, 0.3, 0.6, 0.99])
def test_a_checkpoint_that_was_changed_is_passed_over(run, ensemble, part, caplog):
    (run / "history.csv").write_bytes((HEADER + "".join(LINES)).encode())
    save_checkpoint(run, ensemble, 2)
    path = run / "checkpoint-0002.keras"
    content = bytearray(path.read_bytes())
    content[int(part * len(content))] ^= 1
    path.write_bytes(content)
    _, epochs = continue_run(run, CONFIG)
    assert epochs == 1
    assert "its checksum differs" in caplog.text
    assert "cannot continue after epoch 2" in caplog.text


def test_a_checkpoint_without_a_checksum_is_passed_over(run, caplog):
    (run / "checkpoint-0001.keras.sha256").unlink()
    assert continue_run(run, CONFIG) is None
    assert "has no checksum" in caplog.text


def test_checksums_are_as_sha256sum_checks_them(run):
    name, file = (run / "checkpoint-0001.keras.sha256").read_text().split("  ")[::-1]
    assert name == "checkpoint-0001.keras\n"
    assert file == hashlib.sha256((run / "checkpoint-0001.keras").read_bytes()).hexdigest()


def test_other_versions_are_a_warning(run, caplog):
    other = dataclasses.replace(CONFIG, versions={"keras": "3.12.0"})
    write_json(run / "config.json", other.to_json())
    assert continue_run(run, CONFIG)[1] == 1
    assert "other versions: {'keras': '3.12.0'}, now {'keras': '3.15.1'}" in caplog.text


HERE = versions()["oneDNN"]
OTHER = {"on": "off", "off": "on"}[HERE]


def rounded(onednn, deterministic=True):
    versions = {"keras": "3.15.1", **({"oneDNN": onednn} if onednn else {})}
    return dataclasses.replace(CONFIG, versions=versions, deterministic=deterministic)


def test_a_deterministic_run_is_not_continued_where_onednn_rounds_otherwise(run, ensemble):
    write_json(run / "config.json", rounded(OTHER).to_json())
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for refuses in (
        lambda: continue_run(run, rounded(HERE)),
        lambda: resume(run),  # before the data, which is not there
        lambda: check_own_start(ensemble, run, dataclasses.replace(rounded(HERE), method="dverge")),
    ):
        with pytest.raises(InputError) as error:
            refuses()
        number = 1 if OTHER == "on" else 0
        assert f"Expected oneDNN's kernels {OTHER}, as {run} was started" in str(error.value)
        assert f"Received: {HERE}. To continue, set TF_ENABLE_ONEDNN_OPTS={number}" in str(
            error.value
        )
    assert not is_deterministic()
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_deterministic_run_is_continued_where_onednn_rounds_the_same(run, ensemble):
    write_json(run / "config.json", rounded(HERE).to_json())
    check_own_start(ensemble, run, dataclasses.replace(rounded(HERE), method="dverge"))
    assert continue_run(run, rounded(HERE))[1] == 1


@pytest.mark.parametrize("before", [rounded(None), rounded(OTHER, deterministic=False)])
def test_other_runs_are_continued_whatever_onednn_does(run, ensemble, before, caplog):
    write_json(run / "config.json", before.to_json())
    now = dataclasses.replace(before, versions=rounded(HERE).versions)
    check_own_start(ensemble, run, dataclasses.replace(now, method="dverge"))
    assert continue_run(run, now)[1] == 1
    assert ("started with other versions" in caplog.text) == ("oneDNN" in before.versions)


def test_another_commit_or_none_is_continued_and_said(run, caplog):
    for commit in ("bead-dirty", None):
        with caplog.at_level("INFO", logger="parl_tf"):
            assert continue_run(run, dataclasses.replace(CONFIG, commit=commit))[1] == 1
        assert f"another commit: f00d, now {commit or 'unknown'}" in caplog.text


def test_the_one_before_stays_until_the_new_one_is_there(run, ensemble, monkeypatch):
    def killed(path):
        path.write_bytes(b"the first half")
        raise KeyboardInterrupt

    monkeypatch.setattr(ensemble, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(run, ensemble, 2)
    assert list(find_checkpoints(run)) == [1]
    assert continue_run(run, CONFIG)


def test_a_checkpoint_that_cannot_be_read_is_passed_over(run, ensemble, caplog):
    whole = (run / "checkpoint-0001.keras").read_bytes()
    (run / "checkpoint-0002.keras").write_bytes(whole[: len(whole) // 2])
    (run / "checkpoint-old.keras").write_bytes(b"mine")
    _, epochs = continue_run(run, CONFIG)
    assert epochs == 1
    assert "cannot continue after epoch 2" in caplog.text
    assert history(run) == HEADER + LINES[0]
    save_checkpoint(run, ensemble, 2)
    assert continue_run(run, CONFIG)[1] == 1  # for want of the second line
    begin_run(run, CONFIG)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-old.keras", "config.json"]


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04 broken archive"])
def test_without_one_that_can_be_read_nothing_is_continued(run, caplog, content):
    (run / "checkpoint-0001.keras").write_bytes(content)
    sign(run / "checkpoint-0001.keras")
    assert continue_run(run, CONFIG) is None
    assert "none of its checkpoints can be continued" in caplog.text
    assert history(run) == HEADER + "".join(LINES[:2])


@pytest.mark.parametrize(
    "text",
    [None, "", HEADER, HEADER + "0,1.", HEADER + LINES[1], "0,1.5\r\n1,1.25\r\n", "\xff\r\n"],
)
def test_a_history_that_lacks_an_epoch_is_not_continued(run, caplog, text):
    (run / "history.csv").unlink()
    if text is not None:
        (run / "history.csv").write_bytes(text.encode("latin-1"))
    assert continue_run(run, CONFIG) is None
    assert "does not hold 1 epochs" in caplog.text


def test_a_model_that_is_not_the_state_of_a_training(run, ensemble, caplog):
    path = run / "checkpoint-0001.keras"
    plain_network(0).save(path)
    sign(path)
    assert continue_run(run, CONFIG) is None
    parl_tf.Ensemble(ensemble.members).save(path)
    sign(path)
    assert continue_run(run, CONFIG) is None
    assert caplog.text.count("does not hold an ensemble with its optimizer") == 2


def test_checkpoints_of_another_configuration_are_not_continued_and_the_log_says_why(run, caplog):
    assert continue_run(run, run_config("parl", 1, versions=CONFIG.versions)) is None
    assert "differs in its method and arguments and seed and dataset" in caplog.text
    assert list(find_checkpoints(run)) == [1]


def test_nothing_to_continue(run, tmp_path, caplog):
    assert continue_run(tmp_path / "nothing", CONFIG) is None
    assert continue_run(begin_run(tmp_path / "begun", CONFIG), CONFIG) is None
    (run / "config.json").unlink()
    assert continue_run(run, CONFIG) is None
    assert not caplog.text


def test_a_finished_run_has_no_checkpoints(run, ensemble):
    finish_run(run, ensemble)
    names = sorted(path.name for path in run.iterdir())
    assert names == ["config.json", "history.csv", "model.keras"]
