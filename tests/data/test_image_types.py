"""Images of any floating-point type, as `x / 255.0` and half-precision pipelines give them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.marks import slow_except
from harness.networks import examples, logits_loss, plain_network

import parl_tf
from parl_tf.defences import METHODS

COUNT = 4

# Keras's own, of every generator that ends.
pytestmark = pytest.mark.filterwarnings("ignore:Your input ran out of data")


def ensemble_of(method, jit_compile=False):
    options = {"num_layers": 2} if method in ("parl", "guardian") else {}
    options |= {"num_steps": 1} if method in ("trs", "dverge") else {}
    options |= {"tap": "activation"} if method == "guardian" else {}
    ensemble = METHODS[method]([plain_network(0), plain_network(1)], **options)
    ensemble.compile(keras.optimizers.SGD(0.01), logits_loss(), jit_compile=jit_compile)
    return ensemble


class Single(keras.utils.PyDataset):
    """One batch."""

    def __init__(self, *batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


FEEDS = {
    "data set": lambda *batch: tf.data.Dataset.from_tensors(batch),
    "generator": lambda *batch: (each for each in [batch]),
    "PyDataset": Single,
}


def assert_same_training(method, feed, images, labels, jit_compile=False):
    """Trains on images as they are, and on the same ones as arrays of float32."""
    given, expected = (ensemble_of(method, jit_compile) for _ in range(2))
    logs = given.fit(FEEDS[feed](images, labels), verbose=0, shuffle=False).history
    whole = (images.astype("float32"), labels)
    found = expected.fit(*whole, batch_size=COUNT, verbose=0, shuffle=False).history
    for term, values in found.items():
        assert logs[term] == pytest.approx(values, rel=1e-5), term
    for ours, theirs in zip(given.trainable_variables, expected.trainable_variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)
    after = given.evaluate(FEEDS[feed](images, labels), verbose=0, return_dict=True)
    assert after == pytest.approx(expected.evaluate(*whole, verbose=0, return_dict=True), rel=1e-5)


@pytest.mark.parametrize(
    ("method", "feed", "dtype"),
    [
        pytest.param("gal", "data set", "float64", marks=pytest.mark.slow),
        pytest.param("gal", "PyDataset", "float16", marks=pytest.mark.slow),
        ("parl", "generator", "float16"),
        pytest.param("gal", "data set", "float16", marks=pytest.mark.slow),
        pytest.param("gal", "generator", "float64", marks=pytest.mark.slow),
        pytest.param("parl", "data set", "float64", marks=pytest.mark.slow),
        pytest.param("parl", "PyDataset", "float64", marks=pytest.mark.slow),
        pytest.param("trs", "data set", "float64", marks=pytest.mark.slow),
        pytest.param("trs", "generator", "float16", marks=pytest.mark.slow),
    ],
)
def test_images_are_cast_to_what_members_take(method, feed, dtype):
    images, labels = examples(COUNT)
    assert_same_training(method, feed, images.astype(dtype), labels)


@pytest.mark.parametrize(
    "method", slow_except([name for name in METHODS if name not in ("parl", "gal")], "dverge")
)
def test_no_method_minds_the_type(method):
    images, labels = examples(COUNT)
    assert_same_training(method, "data set", images.astype("float64"), labels)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gal", "parl"])
def test_images_are_cast_under_xla_too(method):
    images, labels = examples(COUNT)
    assert_same_training(method, "data set", images.astype("float64"), labels, jit_compile=True)


@pytest.mark.parametrize("dtype", slow_except(["float64", "float16"], "float16"))
def test_labels_may_be_of_another_type_too(dtype):
    images, labels = examples(COUNT)
    assert_same_training("gal", "data set", images.astype("float64"), labels.astype(dtype))


def test_partners_are_cast_like_the_images():
    (images, labels), (partners, _) = examples(COUNT), examples(COUNT, seed=1)
    results = []
    for types in (("float32", "float32"), ("float64", "float64"), ("float32", "float64")):
        ensemble = ensemble_of("dverge")
        pair = (images.astype(types[0]), partners.astype(types[1]))
        batches = tf.data.Dataset.from_tensors((pair, labels))
        ensemble.fit(batches, verbose=0, shuffle=False)
        results.append(ensemble.members[0].get_weights())
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_members_of_float64_keep_what_a_float64_image_holds(dtype, float64):
    images, labels = examples(COUNT)
    images = np.linspace(0, 1, images.size).reshape(images.shape).astype(dtype)
    ensemble = parl_tf.Ensemble([plain_network(0), plain_network(1)])
    ensemble.compile("sgd", logits_loss(), jit_compile=False)
    seen, _, _, _ = ensemble._unpack((tf.constant(images), tf.constant(labels)))
    assert seen.dtype == tf.float64
    np.testing.assert_array_equal(seen, images.astype("float64"))


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("feed", FEEDS)
def test_predictions_are_those_of_float32(feed, dtype):
    images = examples(COUNT)[0].astype(dtype)
    ensemble = ensemble_of("unprotected")
    expected = ensemble.predict(images.astype("float32"), verbose=0)
    found = ensemble.predict(FEEDS[feed](images), verbose=0)
    np.testing.assert_array_equal(found, expected)
    classes = ensemble.predict_classes(images.astype("float32"))
    np.testing.assert_array_equal(ensemble.predict_classes(images), classes)
