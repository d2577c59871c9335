"""Models inside of models: the flat graph is the same function, and everything looks into it."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.nesting import features_of, flat_network, head, nested_network
from harness.networks import (
    IMAGE_SHAPE,
    NUM_CLASSES,
    examples,
    logits_loss,
    plain_network,
    residual_network,
)

import parl_tf
from parl_tf.attacks.sgm import scale_residual_gradients
from parl_tf.defences import METHODS
from parl_tf.diversity.cka import layer_cka
from parl_tf.errors import InputError
from parl_tf.graphs.exposure import (
    count_convolutions,
    distillation_outputs,
    expose_layers,
    layer_outputs,
    main_convolutions,
)
from parl_tf.graphs.flattening import flattened
from parl_tf.graphs.folding import FoldedNetwork
from parl_tf.training.warm_start import _structure

IMAGES, LABELS = (tf.constant(part) for part in examples(6))


def convolution(filters=4, **options):
    return keras.layers.Conv2D(filters, 3, padding="same", **options)


def block(seed, names="", shape=IMAGE_SHAPE):
    """A functional model from `shape` to 4 channels, with batch normalisation and dropout."""
    pixels = keras.Input(shape)
    x = convolution(kernel_initializer=keras.initializers.HeNormal(seed), name=names or None)(
        pixels
    )
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return keras.Model(pixels, keras.layers.Dropout(0.3, seed=seed)(x))


def classifier(pixels, x):
    return keras.Model(pixels, head(x))


def called_twice():
    inner, outer = block(0, shape=(8, 8, 4)), keras.Input(IMAGE_SHAPE)
    x = convolution()(outer)
    return classifier(outer, keras.layers.Add()([x, inner(convolution()(inner(x)))]))


def several_ends():
    """Inside is a model of two inputs, given by name, and of two outputs, one of them an input."""
    first, second = (keras.Input(IMAGE_SHAPE, name=name) for name in ("b", "a"))
    total = keras.layers.Concatenate()([first, convolution(2)(second)])
    inner = keras.Model([first, second], [keras.layers.ReLU()(total), second])
    pixels = keras.Input(IMAGE_SHAPE)
    features, same = inner({"a": keras.layers.Rescaling(2.0)(pixels), "b": pixels})
    return classifier(pixels, keras.layers.Concatenate()([features, same]))


def sequential_inside():
    augment = keras.Sequential([keras.layers.RandomFlip(seed=3), keras.layers.Rescaling(0.5)])
    pixels = keras.Input(IMAGE_SHAPE)
    return classifier(pixels, block(0)(augment(pixels)))


def sequential_outside():
    layers = [keras.Input(IMAGE_SHAPE), block(0), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(NUM_CLASSES)])


def nested_in_nested():
    """Whose innermost model is called otherwise than the one around it."""
    pixels = keras.Input(IMAGE_SHAPE)
    middle = keras.Model(pixels, convolution()(block(0)(pixels, training=True)))
    outer = keras.Input(IMAGE_SHAPE)
    return classifier(outer, middle(outer, training=False))


def names_that_collide():
    pixels = keras.Input(IMAGE_SHAPE)
    x = block(1, "last", (8, 8, 4))(block(0, "last")(pixels))
    return classifier(pixels, x)  # whose own convolution is named "last" too


def of_another_type_and_rank():
    image = keras.Input(IMAGE_SHAPE[:2], dtype="float64")
    x = keras.layers.Reshape((*IMAGE_SHAPE[:2], 1))(image)
    inner = keras.Model(image, convolution()(x))
    pixels = keras.Input(IMAGE_SHAPE)
    return classifier(pixels, inner(convolution(1)(pixels)))


def operations_inside():
    pixels = keras.Input(IMAGE_SHAPE)
    inner = keras.Model(pixels, keras.ops.relu(convolution()(pixels)) * 2.0)
    outer = keras.Input(IMAGE_SHAPE)
    return classifier(outer, keras.ops.tanh(inner(keras.ops.subtract(outer, 0.5))))


def half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inner = block(0, shape=(8, 8, 4))
        pixels = keras.Input(IMAGE_SHAPE)
        return classifier(pixels, inner(convolution()(pixels)))
    finally:
        keras.config.set_dtype_policy("float32")


NETWORKS = [
    lambda: nested_network(0),
    lambda: nested_network(0, training=False),
    called_twice,
    several_ends,
    sequential_inside,
    sequential_outside,
    nested_in_nested,
    names_that_collide,
    of_another_type_and_rank,
    operations_inside,
    half_precision,
]
IDS = ["nested", "in inference mode", *(network.__name__ for network in NETWORKS[2:])]
each_network = pytest.mark.parametrize("network", NETWORKS, ids=IDS)


def models_in(model):
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]


@each_network
@pytest.mark.parametrize("training", [False, True])
def test_values_gradients_and_states_are_those_of_the_nested_model(network, training):
    keras.utils.set_random_seed(0)
    nested = network()
    flat = flattened(nested)
    assert models_in(nested)
    assert not models_in(flat)
    assert flat.inputs[0] is nested.inputs[0]
    state = [variable.numpy() for variable in nested.variables]
    results = []
    for model in (nested, flat):
        for variable, value in zip(nested.variables, state, strict=True):
            variable.assign(value)
        pixels = tf.constant(IMAGES)
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            logits = model(pixels, training=training)
            loss = tf.reduce_sum(tf.sin(tf.cast(logits, tf.float32)))
        sources = [pixels, *(variable.value for variable in nested.trainable_variables)]
        after = [variable.numpy() for variable in nested.variables]
        results.append([logits, *tape.gradient(loss, sources), *after])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), rtol=1e-5, atol=1e-7)
    if training:
        assert any((a != b).any() for a, b in zip(state, after, strict=True)) == bool(
            nested.non_trainable_variables
        )


@pytest.mark.parametrize(("options", "moves"), [({}, False), ({"training": True}, True)])
def test_a_nested_call_keeps_its_training_unless_the_whole_is_told(options, moves):
    model = nested_network(0, **options)
    norm = flattened(model).get_layer(index=2)
    assert isinstance(norm, keras.layers.BatchNormalization)
    for told, moved in ((None, moves), (False, False), (True, True)):
        for each in (model, flattened(model)):
            before = norm.moving_mean.numpy()
            each(IMAGES, training=told)
            assert (norm.moving_mean.numpy() != before).any() == moved


@pytest.mark.parametrize("network", [plain_network, residual_network])
def test_a_model_without_models_inside_stays_the_same_object(network):
    model = network(0)
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    assert flattened(model) is model
    expose_layers(model, 2)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes


@each_network
def test_it_leaves_the_model_as_it_was_to_save_and_to_compare(network, tmp_path):
    model = network()
    before = (_structure(model), model.count_params(), [layer.name for layer in model.layers])
    names = [layer.name for layer in model._flatten_layers()]
    expected = model(IMAGES)
    for _ in range(2):
        expose_layers(model, 1, tap="convolution")
        FoldedNetwork(model)
    assert (_structure(model), model.count_params(), [lay.name for lay in model.layers]) == before
    assert [layer.name for layer in model._flatten_layers()] == names
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.float32(loaded(IMAGES)), np.float32(expected))
    assert count_convolutions(loaded) == count_convolutions(model)


def test_a_graph_is_flattened_once_and_goes_with_its_model():
    model = nested_network(0)
    flat = flattened(model)
    stem = flat.get_layer("stem")
    count = len(stem._inbound_nodes)
    for _ in range(3):
        assert flattened(model) is flat
        layer_outputs(model, 4)
    assert len(stem._inbound_nodes) == count
    gone = weakref.ref(model), weakref.ref(flat)
    del model, flat, stem
    for _ in range(2):  # the flat one once nothing keeps it
        gc.collect()
    assert not any(reference() for reference in gone)


def test_a_sequential_model_that_grew_is_flattened_anew():
    model = keras.Sequential([keras.Input(IMAGE_SHAPE), block(0)])
    assert flattened(model).output_shape == (None, 8, 8, 4)
    for layer in (keras.layers.Flatten(), keras.layers.Dense(NUM_CLASSES)):
        model.add(layer)
    assert flattened(model).output_shape == (None, NUM_CLASSES)
    np.testing.assert_allclose(flattened(model)(IMAGES), model(IMAGES), rtol=1e-6)


def test_layers_of_one_name_keep_it():
    model = names_that_collide()
    assert [layer.name for layer in main_convolutions(model, 3)] == ["last"] * 3
    logits, *outputs = expose_layers(model, 3)(IMAGES)
    np.testing.assert_array_equal(logits, model(IMAGES))
    inner = models_in(model)[0]
    expected = keras.Model(inner.inputs, inner.layers[-2].output)(IMAGES)
    np.testing.assert_array_equal(outputs[0], expected)


@pytest.mark.parametrize("tap", ["activation", "convolution"])
def test_the_first_convolutions_are_those_of_the_flat_twin(tap):
    nested, flat = nested_network(0), flat_network(0)
    assert count_convolutions(nested) == count_convolutions(flat) == 4
    names = [layer.name for layer in main_convolutions(nested, 4)]
    assert names == ["stem", "first", "second", "last"]
    for ours, theirs in zip(
        *(expose_layers(model, 4, tap=tap)(IMAGES) for model in (nested, flat)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_distillation_outputs_are_those_of_the_flat_twin():
    found = [
        keras.Model(model.inputs, distillation_outputs(model))(IMAGES)
        for model in (nested_network(0), flat_network(0))
    ]
    assert len(found[0]) == 5  # four convolutions and the logits, not the logits alone
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def ensemble_of(method, network, **options):
    members = [network(seed) for seed in range(2)]
    if method in ("parl", "guardian"):
        options = {"num_layers": 3, "tap": "activation", **options}
    ensemble = METHODS[method](members, **options)
    ensemble.compile(keras.optimizers.SGD(0.01), logits_loss(), run_eagerly=True)
    return ensemble


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("parl", {}),
        pytest.param("parl", {"tap": "convolution"}, marks=pytest.mark.slow),
        ("parl", {"penalty_batch_norm": "batch"}),
        ("guardian", {}),
        pytest.param("guardian", {"tap": "convolution"}, marks=pytest.mark.slow),
        pytest.param("dverge", {"num_steps": 2, "seed": 0}, marks=pytest.mark.slow),
        ("dverge", {"num_steps": 2, "seed": 3, "distillation_batch_norm": "moving"}),
        ("unprotected", {"adversarial_training": {"num_steps": 2, "batch_norm": "moving"}}),
        pytest.param("trs", {"num_steps": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_step_of_every_method_is_that_of_the_flat_twins(method, options):
    nested, flat = (ensemble_of(method, net, **options) for net in (nested_network, flat_network))
    logs = [model.train_on_batch(IMAGES, LABELS, return_dict=True) for model in (nested, flat)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)
    np.testing.assert_allclose(
        *(model.predict(IMAGES, verbose=0) for model in (nested, flat)), atol=1e-4
    )
    assert len(nested.variables) == len(flat.variables)


def test_dverge_distils_from_the_features_of_the_nested_convolutions():
    nested, flat = (ensemble_of("dverge", net) for net in (nested_network, flat_network))
    assert nested.num_layers == flat.num_layers == 5
    pixels = tf.constant(IMAGES)
    for layer in range(1, 6):
        nested._layer = flat._layer = layer
        ours, theirs = (model._distil(0, pixels, pixels[::-1], False) for model in (nested, flat))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert np.abs(ours - pixels).max() > 0.05


@pytest.mark.parametrize("method", ["parl", "guardian", "dverge"])
def test_an_ensemble_of_nested_members_is_saved_once_and_loaded(method, tmp_path):
    ensemble = ensemble_of(method, nested_network)
    ensemble.train_on_batch(IMAGES, LABELS)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    np.testing.assert_array_equal(
        loaded.predict(IMAGES, verbose=0), ensemble.predict(IMAGES, verbose=0)
    )
    counts = [sum(np.size(v) for v in member.variables) for member in ensemble.members]
    assert ensemble.count_params() == sum(counts)


def test_alignment_of_layers_is_that_of_the_flat_twins():
    found = [
        layer_cka(ensemble_of("unprotected", network), IMAGES).biased
        for network in (nested_network, flat_network)
    ]
    assert found[0].shape == (4, 1)
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_the_logged_measures_are_those_of_the_flat_twins():
    logs = []
    for network in (nested_network, flat_network):
        callback = parl_tf.DiversityDiagnostics(IMAGES, LABELS, num_layers=3)
        callback.set_model(ensemble_of("unprotected", network))
        logs.append({})
        callback.on_epoch_end(0, logs[-1])
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


def test_the_skip_gradient_method_finds_blocks_inside():
    gradients = []
    for model in (nested_network(0), flat_network(0), names_of_blocks_that_collide()):
        copied = scale_residual_gradients(model, 0.5)
        np.testing.assert_allclose(copied(IMAGES), model(IMAGES), atol=1e-6)
        gradients.append([])
        for each in (copied, model):
            with tf.GradientTape() as tape:
                pixels = tf.constant(IMAGES)
                tape.watch(pixels)
                total = tf.reduce_sum(tf.sin(each(pixels, training=False)))
            gradients[-1].append(tape.gradient(total, pixels))
        assert np.abs(gradients[-1][0] - gradients[-1][1]).max() > 1e-3
    np.testing.assert_allclose(gradients[0][0], gradients[1][0], rtol=1e-4, atol=1e-6)


def test_the_skip_gradient_method_keeps_what_a_normalisation_was_adapted_to():
    norm = keras.layers.Normalization()
    norm.adapt(0.1 * IMAGES)
    pixels = keras.Input(IMAGE_SHAPE)
    model = classifier(pixels, features_of(residual_network(0))(norm(pixels)))
    copied = scale_residual_gradients(model, 0.5)
    np.testing.assert_allclose(copied(IMAGES), model(IMAGES), rtol=1e-5)


def names_of_blocks_that_collide():
    """Two backbones whose layers have the same names, one behind the other."""
    pixels = keras.Input(IMAGE_SHAPE)
    x = convolution(3)(features_of(residual_network(0))(pixels))
    return classifier(pixels, features_of(residual_network(1))(x))


def test_folded_networks_fold_what_is_inside():
    nested, flat = nested_network(0), flat_network(0)
    network = FoldedNetwork(nested)
    assert len(network.weights()) == len(FoldedNetwork(flat).weights()) == 3
    np.testing.assert_allclose(network(tf.constant(IMAGES))[0], nested(IMAGES), atol=1e-5)


class Subclassed(keras.Model):
    """A backbone without a graph."""

    def __init__(self):
        super().__init__()
        self.convolution = convolution(activation="relu")

    def call(self, inputs):
        return self.convolution(inputs)


class Residual(keras.layers.Layer):
    """A block that computes its convolution itself."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, 3, shape[-1], shape[-1]), name="kernel")

    def call(self, inputs):
        return inputs + tf.nn.conv2d(inputs, self.kernel, 1, "SAME")


class OwnCall(keras.Model):
    """A functional model that does more than its graph."""

    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training)


def own_call():
    pixels = keras.Input(IMAGE_SHAPE)
    return OwnCall(pixels, convolution(activation="relu")(pixels))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Subclassed, "Subclassed"),
        (Residual, "Residual"),
        (own_call, "OwnCall"),
        (lambda: keras.layers.SpectralNormalization(convolution()), "SpectralNormalization"),
        (lambda: keras.Sequential([Subclassed()]), "Subclassed"),
    ],
    ids=["subclassed", "layer", "own call", "wrapper", "in a sequential model"],
)
def test_what_cannot_be_looked_into_is_refused_by_name_with_the_way_out(make, name):
    def network(seed):
        pixels = keras.Input(IMAGE_SHAPE)
        return classifier(pixels, keras.layers.ReLU()(make()(pixels)))

    message = rf"a {name} in model.*Build it flat.*base\.output"
    model = network(0)
    takes = (
        lambda: expose_layers(model, 1),
        lambda: expose_layers(model, 9),
        lambda: main_convolutions(model, 2),
        lambda: count_convolutions(model),
        lambda: distillation_outputs(model),
        lambda: scale_residual_gradients(model, 0.5),
    )
    for take in takes:
        with pytest.raises(InputError, match=message):
            take()
    for method in ("parl", "guardian", "dverge"):
        with pytest.raises(InputError, match=message):
            ensemble_of(method, network)
    assert ensemble_of("unprotected", network).vote(IMAGES)


def test_convolutions_before_one_that_cannot_be_looked_into_are_found():
    pixels = keras.Input(IMAGE_SHAPE)
    x = convolution(activation="relu", name="open")(pixels)
    model = classifier(pixels, Subclassed()(x))
    assert [layer.name for layer in main_convolutions(model, 1)] == ["open"]
    with pytest.raises(InputError, match="a Subclassed in model"):
        main_convolutions(model, 2)


def test_a_network_of_dense_layers_alone_is_distilled_from_its_logits():
    pixels = keras.Input(IMAGE_SHAPE)
    logits = keras.layers.Dense(NUM_CLASSES)(keras.layers.Flatten()(pixels))
    model = keras.Model(pixels, logits)
    assert distillation_outputs(model) == [logits]
    with pytest.raises(InputError, match="Expected a model with convolutions"):
        expose_layers(model, 1)
