import dataclasses
import json

import keras
import numpy as np
import pytest
from harness.networks import NUM_CLASSES, examples, plain_network, residual_network
from harness.run_configs import run_config

import parl_tf
from parl_tf.attacks.iterative import PGD
from parl_tf.diversity.cka import layer_cka
from parl_tf.diversity.measuring import measure_diversity
from parl_tf.diversity.transferability import member_transfer
from parl_tf.errors import ExistingRunError, InputError, MissingFileError, UnreadableFileError
from parl_tf.provenance import fingerprint, weights_fingerprint
from parl_tf.results.diversity import load_diversity, save_diversity
from parl_tf.results.files import checksum

MEMBERS = [residual_network(0), plain_network(1), residual_network(2)]
ENSEMBLE = parl_tf.Ensemble(MEMBERS)
ATTACK = PGD(num_steps=2, restarts=1)
IMAGES, LABELS = examples(13)
CONFIG = run_config()


def measure(**changes):
    arguments = {
        "name": "mine",
        "ensemble": ENSEMBLE,
        "attack": ATTACK,
        "epsilon": 0.1,
        "data": (IMAGES, LABELS),
        "example": 4,
        "seed": 3,
        "batch_size": 5,
        "config": CONFIG,
        "data_description": {"name": "random"},
        **changes,
    }
    return measure_diversity(**arguments)


@pytest.fixture(scope="module")
def measured():
    return measure()


def gradient(member, images, labels):
    """Gradient of a member's loss, worked out by Keras's own means."""
    import tensorflow as tf

    pixels = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        losses = keras.losses.sparse_categorical_crossentropy(
            labels, member(pixels, training=False), from_logits=True
        )
    return tape.gradient(losses, pixels).numpy()


def test_the_record_is_what_its_parts_measure(measured):
    assert measured.pairs == [[0, 1], [0, 2], [1, 2]]
    alike = layer_cka(ENSEMBLE, IMAGES)
    assert np.array(measured.cka) == pytest.approx(alike.biased, abs=1e-6)
    assert np.array(measured.unbiased_cka) == pytest.approx(alike.unbiased, abs=1e-6)
    transfer = member_transfer(ENSEMBLE, ATTACK, 0.1, IMAGES, LABELS, seed=3)
    assert np.array(measured.transfer, float) == pytest.approx(transfer.success, nan_ok=True)
    assert measured.agreement_clean == transfer.agreement_clean.tolist()
    assert measured.agreement_adversarial == transfer.agreement_adversarial.tolist()
    flat = [gradient(member, IMAGES, LABELS).reshape(13, -1) for member in MEMBERS]
    units = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in flat]
    for (first, second), cosine in zip(measured.pairs, measured.gradient_cosines, strict=True):
        expected = np.sum(units[first] * units[second], axis=1).mean()
        assert cosine == pytest.approx(expected, abs=1e-5)


def test_the_record_says_what_was_measured(measured):
    assert measured.target.name == "mine"
    assert measured.target.fingerprint == weights_fingerprint(ENSEMBLE)
    assert measured.target.config == CONFIG
    assert measured.data == {
        "name": "random",
        "num_examples": 13,
        "fingerprint": fingerprint(IMAGES, LABELS.astype("int64")),
    }
    assert (measured.tap, measured.seed) == ("activation", 3)
    assert measured.attack == {"name": "pgd", **dataclasses.asdict(ATTACK), "epsilon": 0.1}
    assert measured.seconds > 0
    assert measured.versions["keras"] == keras.__version__


def test_the_example_has_each_members_gradient(measured):
    assert np.array(measured.example["image"], "float32") == pytest.approx(IMAGES[4])
    assert measured.example["label"] == LABELS[4]
    for member, found in zip(MEMBERS, measured.example["gradients"], strict=True):
        expected = gradient(member, IMAGES[4:5], LABELS[4:5])[0]
        assert np.abs(found).max() == 1
        assert np.array(found) == pytest.approx(expected / np.abs(expected).max(), abs=1e-4)


def test_the_record_returns_from_its_file(measured, tmp_path):
    path = tmp_path / "new" / "diversity.json"
    save_diversity(measured, path)
    assert load_diversity(path) == measured
    assert [child.name for child in path.parent.iterdir()] == ["diversity.json"]
    with pytest.raises(ExistingRunError, match="cannot be written"):
        save_diversity(measured, path / "more.json")


def test_what_is_not_defined_is_null(tmp_path):
    # One member answers alike whatever it sees: no alignment, no gradient.
    constant = plain_network(7)
    constant.set_weights([np.zeros_like(weight) for weight in constant.get_weights()])
    # And gets nothing right.
    *rest, _ = constant.get_weights()
    constant.set_weights([*rest, 2 * np.eye(NUM_CLASSES, dtype="float32")[0]])
    ensemble = parl_tf.Ensemble([plain_network(1), constant])
    record = measure(ensemble=ensemble, data=(IMAGES, np.full(13, 2)))
    assert record.unbiased_cka == [[None], [None]]
    assert record.transfer[0][1] is None
    assert record.transfer[1][1] is None
    assert record.gradient_cosines == [0.0]
    assert np.abs(record.example["gradients"][1]).max() == 0
    save_diversity(record, tmp_path / "diversity.json")
    assert load_diversity(tmp_path / "diversity.json") == record


def test_seeds_and_batches(measured):
    again = measure(batch_size=13)
    assert again.transfer == measured.transfer
    assert again.agreement_adversarial == measured.agreement_adversarial
    assert np.array(again.cka) == pytest.approx(np.array(measured.cka), abs=1e-5)
    assert again.gradient_cosines == pytest.approx(measured.gradient_cosines, abs=1e-5)


BROKEN = plain_network(9)
BROKEN.set_weights([weight * np.nan for weight in BROKEN.get_weights()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensemble": MEMBERS[0]}, "Expected an Ensemble"),
        ({"ensemble": MEMBERS}, "Expected an Ensemble"),
        ({"attack": "pgd"}, "attack such as"),
        ({"attack": PGD}, "attack such as"),
        ({"epsilon": 0}, "epsilon in"),
        ({"epsilon": 2}, "epsilon in"),
        ({"tap": "layer"}, "tap"),
        ({"example": 13}, "example from 0 to 12. Received: 13"),
        ({"example": -1}, "Received: -1"),
        ({"seed": -1}, "seed from 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"data": (IMAGES[:3], LABELS[:3]), "example": 0}, "at least 4 examples"),
        ({"data": (IMAGES[:, :4], LABELS)}, "images of shape"),
        ({"data": (IMAGES * 2, LABELS)}, r"pixels in \[0, 1\]"),
        ({"data": (IMAGES, LABELS + 4)}, "labels from 0 to 3"),
        ({"ensemble": parl_tf.Ensemble([BROKEN, plain_network(1)])}, "finite"),
    ],
)
def test_what_cannot_be_measured(changes, message):
    with pytest.raises(InputError, match=message):
        measure(**changes)


def rewrite(path, change):
    """Changes a record in its file, which then has a checksum that fits."""
    document = json.loads(path.read_text())
    change(document["diversity"])
    document["checksum"] = checksum(document)
    path.write_text(json.dumps(document))


@pytest.fixture
def path(measured, tmp_path):
    save_diversity(measured, tmp_path / "diversity.json")
    return tmp_path / "diversity.json"


def test_other_files_are_refused(path):
    text = path.read_text()
    for length in range(0, len(text) - 2, 1501):
        path.write_text(text[:length])
        with pytest.raises(UnreadableFileError, match=r"diversity\.json"):
            load_diversity(path)
    path.write_text(text.replace('"seed": 3', '"seed": 4', 1))
    with pytest.raises(UnreadableFileError, match="changed after it was written"):
        load_diversity(path)
    path.unlink()
    with pytest.raises(MissingFileError, match=r"diversity\.json"):
        load_diversity(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target", "mine"),
        ("data", {}),
        ("data", None),
        ("pairs", [[0, 1]]),
        ("pairs", None),
        ("cka", [[1, 2]]),
        ("cka", [[1, 2, 3], [1]]),
        ("unbiased_cka", "many"),
        ("gradient_cosines", [0.5]),
        ("transfer", [[1.0]]),
        ("transfer", 3),
        ("agreement_clean", [[1.0, 1.0], [1.0, 1.0]]),
        ("agreement_adversarial", None),
        ("example", None),
        ("example", {"image": [[1.0]], "gradients": [[[1.0]]] * 2}),
        ("example", {}),
    ],
)
def test_records_that_make_no_sense_are_refused_with_any_checksum(path, name, value):
    rewrite(path, lambda record: record.update({name: value}))
    with pytest.raises(UnreadableFileError, match="holds no diversity record"):
        load_diversity(path)


def test_a_file_of_results_is_no_record_of_diversity(path):
    document = json.loads(path.read_text())
    del document["diversity"]
    document["records"] = []
    document["checksum"] = checksum(document)
    path.write_text(json.dumps(document))
    with pytest.raises(UnreadableFileError, match="holds no diversity record"):
        load_diversity(path)
