"""What is taken for a classifier, and what members may have in common."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import (
    IMAGE_SHAPE,
    NUM_CLASSES,
    examples,
    logits_loss,
    plain_network,
    residual_network,
)

import parl_tf
from parl_tf.errors import InputError
from parl_tf.graphs.classifiers import check_answers, check_logits

IMAGES, LABELS = examples(8)


@keras.saving.register_keras_serializable(package="tests")
class Softened(keras.Model):
    """A model that makes probabilities by itself."""

    def call(self, inputs):
        return keras.ops.softmax(inputs)


def softmax(x):
    return keras.layers.Softmax()(x)


def opaque(x):
    """Probabilities, in a way that the graph does not tell."""
    return keras.layers.Lambda(tf.nn.softmax)(x)


def linear_of(activation):
    return lambda x: keras.layers.Activation("linear")(keras.layers.Activation(activation)(x))


def in_half_precision(x):
    return keras.layers.Activation("linear", dtype="float32")(
        keras.layers.Lambda(tf.nn.softmax, dtype="float16")(4 * x)
    )


ENDS = {
    "softmax": softmax,
    "linear activation behind": linear_of("softmax"),
    "linear activation behind sigmoid": linear_of("sigmoid"),
    "identity behind": lambda x: keras.layers.Identity()(softmax(x)),
    "rescaled": lambda x: keras.layers.Rescaling(2.0)(softmax(x)),
    "shrunk": lambda x: keras.layers.Rescaling(0.1)(softmax(x)),
    "rescaled below zero": lambda x: keras.layers.Rescaling(2.0, -1.0)(softmax(x)),
    "lambda": opaque,
    "lambda behind": lambda x: keras.layers.Lambda(lambda y: y)(softmax(x)),
    "reshaped": lambda x: keras.ops.reshape(softmax(x), (-1, NUM_CLASSES)),
    "multiplied": lambda x: 3.0 * softmax(x),
    "negated": lambda x: -softmax(x),
    "negated and shrunk": lambda x: -0.1 * opaque(x),
    "a subclassed model": lambda x: Softened()(x),
    "a nested model": lambda x: keras.Sequential([keras.layers.Rescaling(2.0)])(softmax(x)),
    "saturated": lambda x: 2.0 * opaque(30.0 * x),
    "float16": in_half_precision,
    "bfloat16": lambda x: keras.layers.Lambda(tf.nn.softmax, dtype="bfloat16")(4 * x),
}


def network_with(end, seed=0, kernel="glorot_uniform"):
    keras.utils.set_random_seed(seed)
    pixels = keras.Input(IMAGE_SHAPE)
    x = keras.layers.Conv2D(4, 3, activation="relu")(pixels)
    logits = keras.layers.Dense(NUM_CLASSES, kernel_initializer=kernel)(keras.layers.Flatten()(x))
    return keras.Model(pixels, end(logits))


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_probabilities_are_refused_by_ensembles_evaluation_and_attacks(end):
    model = network_with(end)
    message = "returns probabilities.*Expected logits"
    with pytest.raises(InputError, match=message):
        parl_tf.Ensemble([plain_network(0), model])
    data = (IMAGES, LABELS)
    with pytest.raises(InputError, match=message):
        parl_tf.evaluate_robustness({"model": model}, [], [], data)
    with pytest.raises(InputError, match=message):
        parl_tf.FGSM()(model, IMAGES, LABELS, epsilon=0.1)


@pytest.mark.parametrize(
    ("scale", "sign"),
    [(0.5, "negative"), (1.0, "negative"), (2.0, "negative"), (-1.0, "positive")],
)
def test_functions_that_rescale_probabilities_are_refused_by_attacks(scale, sign):
    network = network_with(lambda x: x)

    def function(images):
        return scale * tf.nn.softmax(network(images))

    with pytest.raises(InputError, match=f"The model returns probabilities: no value is {sign}"):
        parl_tf.FGSM()(function, IMAGES, LABELS, epsilon=0.1)


def test_probabilities_of_an_untrained_head_are_refused():
    model = network_with(opaque, kernel="zeros")  # every row is 1/4, 1/4, 1/4, 1/4
    with pytest.raises(InputError, match="rows sum to 1"):
        check_answers(model)


LEGITIMATE = {
    "logits": lambda x: x,
    "tempered": lambda x: keras.layers.Rescaling(0.5, 1.0)(x),
    "rectified": lambda x: keras.layers.ReLU()(x),
    "log-softmax": lambda x: keras.ops.log_softmax(x),
    "negative": lambda x: -keras.ops.softplus(x),
    "distances": lambda x: -keras.ops.square(x),
    "bounded": lambda x: 10.0 * keras.ops.tanh(x),
    "squared": lambda x: keras.ops.square(x),
    "of sum zero": lambda x: x - keras.ops.mean(x, axis=-1, keepdims=True),
    "positive": lambda x: keras.ops.softplus(x),
    "not finite": lambda x: x * np.inf,
}


@pytest.mark.parametrize("end", LEGITIMATE.values(), ids=LEGITIMATE)
@pytest.mark.parametrize("kernel", ["glorot_uniform", "zeros"])
def test_logits_of_many_kinds_are_taken(end, kernel):
    check_answers(network_with(end, kernel=kernel))


def test_constant_logits_are_taken_unless_they_sum_to_one():
    check_logits(np.tile([1.0, 1.0, 1.0], (4, 1)))
    check_logits(np.tile([0.0, 0.0, 0.0], (4, 1)))
    with pytest.raises(InputError, match="rows sum to 1"):
        check_logits(np.tile([0.0, 1.0, 0.0], (4, 1)))
    with pytest.raises(InputError, match="rows sum to -1"):
        check_logits(np.tile([-0.25, -0.5, -0.25], (4, 1)))


def test_logits_that_hardly_vary_are_taken():
    generator = np.random.default_rng(0)
    for scale in (1e-6, 1e-4, 1e-3):
        for _ in range(200):
            check_logits(2 + scale * generator.normal(size=(6, 2)))
            check_logits(-2 + scale * generator.normal(size=(6, 2)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_probabilities_of_every_precision_and_scale_are_found(dtype, classes):
    logits = np.random.default_rng(0).normal(size=(6, classes)) * 3
    for scale in (-1.0, 0.1, 1.0, 2.0, 100.0):
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        with pytest.raises(InputError, match="returns probabilities"):
            check_logits((scale * probabilities).astype(dtype))


def test_being_asked_leaves_no_trace():
    pixels = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, activity_regularizer="l2")(pixels)
    x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(x))
    logits = keras.layers.Dense(NUM_CLASSES)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(pixels, logits)
    before = [variable.numpy() for variable in model.variables]
    check_answers(model)
    assert not model.losses
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_models_of_a_fixed_batch_size_are_asked_for_it():
    pixels = keras.Input(batch_shape=(2, *IMAGE_SHAPE))
    logits = keras.layers.Dense(NUM_CLASSES)(keras.layers.Flatten()(pixels))
    check_answers(keras.Model(pixels, logits))
    with pytest.raises(InputError, match="rows sum to 2"):
        check_answers(keras.Model(pixels, 2.0 * opaque(logits)))


def adapted():
    layer = keras.layers.Normalization()
    layer.adapt(IMAGES)
    return layer


def frozen_backbone():
    network = residual_network(0)
    backbone = keras.Model(network.inputs, network.layers[-3].output)
    backbone.trainable = False
    return backbone


SHARED = {
    "an adapted normalisation": (adapted, r"normalization\S*/mean"),
    "a frozen backbone": (frozen_backbone, "stem/kernel"),
    "a trained layer": (lambda: keras.layers.Conv2D(3, 3, name="own"), "own/kernel"),
    "a random layer": (lambda: keras.layers.RandomFlip(seed=1), "seed_generator_state"),
}


def members_on(layers):
    members = []
    for layer in layers:
        pixels = keras.Input(IMAGE_SHAPE)
        x = keras.layers.Flatten()(keras.layers.Conv2D(3, 3)(layer(pixels)))
        members.append(keras.Model(pixels, keras.layers.Dense(NUM_CLASSES)(x)))
    return members


@pytest.mark.parametrize(("make", "path"), SHARED.values(), ids=SHARED)
def test_members_that_share_variables_are_refused_with_the_way_out(make, path, tmp_path):
    layer = make()
    members = members_on([layer, layer])
    with pytest.raises(InputError, match=rf"shared weights, .*{path}.*copy\.deepcopy"):
        parl_tf.Ensemble(members)
    copies = [copy.deepcopy(layer) for _ in range(2)]
    pixels = tf.constant(IMAGES)
    for each in copies:
        np.testing.assert_array_equal(each(pixels, training=False), layer(pixels, training=False))
    ensemble = parl_tf.Ensemble(members_on(copies))
    ensemble.compile("adam", logits_loss(), jit_compile=False)
    ensemble.train_on_batch(IMAGES, LABELS)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    np.testing.assert_array_equal(
        loaded.predict(IMAGES, verbose=0), ensemble.predict(IMAGES, verbose=0)
    )


def test_members_that_share_what_has_no_variables_are_saved_whole(tmp_path):
    pixels = keras.Input(IMAGE_SHAPE)
    scaled = keras.layers.Rescaling(2.0)(pixels)
    rectify = keras.layers.ReLU()
    members = []
    for _ in range(2):
        x = keras.layers.Flatten()(rectify(keras.layers.Conv2D(3, 3)(scaled)))
        members.append(keras.Model(pixels, keras.layers.Dense(NUM_CLASSES)(x)))
    ensemble = parl_tf.PARL(members, num_layers=1)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    np.testing.assert_array_equal(
        loaded.predict(IMAGES, verbose=0), ensemble.predict(IMAGES, verbose=0)
    )
