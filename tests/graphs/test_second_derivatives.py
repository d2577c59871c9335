"""What is refused for its second derivative, and what is not."""

import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import logits_loss

import parl_tf
from parl_tf.errors import InputError
from parl_tf.graphs import second_derivatives, single_layers
from parl_tf.graphs.directional import Verdict, judged
from parl_tf.graphs.second_derivatives import Differentiated, _calls, whole_network
from parl_tf.graphs.single_layers import LayerCall

layers = keras.layers


@tf.custom_gradient
def cubed_once(x):
    """A cube whose derivative is right, and takes its input for a constant."""
    return x**3, lambda upstream: upstream * 3 * tf.stop_gradient(x) ** 2


@tf.custom_gradient
def cubed_wrongly(x):
    """A cube whose derivative is right, and that one's derivative is twice what it should be."""

    @tf.custom_gradient
    def backward(upstream, x):
        return upstream * 3 * x**2, lambda g: (g * 3 * x**2, g * upstream * 12 * x)

    return x**3, lambda upstream: backward(upstream, x)


@tf.custom_gradient
def doubled_once(x):
    """Linear, so that nothing but the way back through its gradient can be lost."""
    return 2 * x, lambda upstream: 2 * tf.stop_gradient(upstream)


@keras.saving.register_keras_serializable(package="tests")
class Cubed(layers.Layer):
    """A layer that can be rebuilt from its configuration."""

    def call(self, inputs):
        return cubed_once(inputs)


class Applied(layers.Layer):
    """A layer that cannot be rebuilt."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


@keras.saving.register_keras_serializable(package="tests")
class Scaled(layers.Layer):
    """Wrong in the derivative with respect to its weight alone."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, inputs):
        @tf.custom_gradient
        def scaled(x, scale):
            def backward(upstream):
                return upstream * tf.stop_gradient(scale), tf.reduce_sum(upstream * x, [0, 1, 2])

            return x * scale, backward

        return scaled(inputs, tf.convert_to_tensor(self.scale))


class Normalised(layers.Layer):
    """A layer that calls a normalisation itself, which no graph shows."""

    def __init__(self, kind="BatchNormalization", **options):
        super().__init__(**options)
        self.inner = getattr(layers, kind)(name="inner")

    def call(self, inputs):
        return self.inner(inputs)


class Untold(Normalised):
    """Cannot be rebuilt."""

    def get_config(self):
        raise NotImplementedError


def network(seed, *first, behind=()):
    """Layers, two convolutions with their activations, and layers behind these."""
    keras.utils.set_random_seed(seed)
    x = pixels = keras.Input((8, 8, 3))
    for layer in first:
        x = layer(x)
    for _ in range(2):
        x = layers.Activation("tanh")(layers.Conv2D(3, 3, padding="same")(x))
    for layer in behind:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, layers.Dense(4)(x), name=f"member_{seed}")


METHODS = {
    "parl": lambda members, **options: parl_tf.PARL(members, num_layers=2, **options),
    "parl, batch": lambda members, **options: parl_tf.PARL(
        members, num_layers=2, penalty_batch_norm="batch", **options
    ),
    "guardian": lambda members, **options: parl_tf.Guardian(
        members, num_layers=2, tap="activation", **options
    ),
    "gal": parl_tf.GAL,
    "trs": parl_tf.TRS,
}
FAULTY = {
    "cubed": (Cubed, "is missing"),
    "cubed, not to be rebuilt": (lambda: Applied(cubed_once), "is missing"),
    "cubed, by a lambda": (lambda: layers.Lambda(lambda x: cubed_once(x)), "is missing"),
    "wrong": (lambda: Applied(cubed_wrongly), "is wrong"),
    "wrong, by a lambda": (lambda: layers.Lambda(cubed_wrongly), "is wrong"),
    "linear": (lambda: layers.Lambda(doubled_once), "is missing"),
    "weight": (Scaled, "is missing"),
    "raw": (
        lambda: layers.Lambda(
            lambda x: tf.raw_ops.ResizeBilinear(images=x, size=(8, 8), half_pixel_centers=True)
        ),
        "is missing",
    ),
    "resized by a lambda": (
        lambda: layers.Lambda(lambda x: tf.image.resize(x, (8, 8))),
        "is missing.*with Keras's own layers in its graph",
    ),
    "moments in a lambda": (
        lambda: layers.Lambda(lambda x: x * tf.nn.moments(x, [1, 2], keepdims=True)[1]),
        "is wrong.*with Keras's own layers in its graph",
    ),
    "a normalisation inside": (
        Normalised,
        "is wrong.*part that calls BatchNormalization 'inner' as a functional model",
    ),
    "another inside": (
        lambda: Normalised("LayerNormalization"),
        "is wrong.*part that calls LayerNormalization 'inner' as a functional model",
    ),
    "a normalisation inside, not to be rebuilt": (
        Untold,
        "is wrong.*part that calls BatchNormalization 'inner' as a functional model",
    ),
    "another inside, not to be rebuilt": (
        lambda: Untold("LayerNormalization"),
        "(cannot be measured|is wrong).*part that calls LayerNormalization 'inner'",
    ),
    "one inside of keras's": (
        lambda: layers.Pipeline([layers.Resizing(8, 8, name="inner")]),
        "is missing.*part that calls Resizing 'inner' as a functional model",
    ),
    "raised": (lambda: layers.Resizing(8, 8, interpolation="area"), "is missing.*ResizeArea"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_layer_is_refused_by_name(name):
    make, fault = FAULTY[name]
    members = [network(0), network(1, layers.Rescaling(2.0), make())]
    culprit = members[1].layers[2].name
    with pytest.raises(InputError, match=f"{culprit!r}.*'member_1' {fault}.*check_second_deriv"):
        parl_tf.GAL(members)


def test_what_refuses_a_layer_with_a_normalisation_inside_tells_the_way_out():
    with pytest.raises(InputError, match="functional model"):
        parl_tf.GAL([network(seed, Normalised()) for seed in (0, 1)])
    parts = []
    for seed in (0, 1):
        pixels = keras.Input((8, 8, 3))
        part = keras.Model(pixels, layers.BatchNormalization()(pixels))
        parts.append(network(seed, part))
    parl_tf.GAL(parts)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_refuses_what_it_differentiates_and_no_more(method):
    make = METHODS[method]
    between = [network(seed) for seed in (0, 1)]
    pixels = between[1].inputs[0]
    x = Cubed(name="bent")(layers.Conv2D(3, 3, padding="same")(pixels))
    x = layers.Activation("tanh")(x)
    x = layers.Activation("tanh")(layers.Conv2D(3, 3, padding="same")(x))
    x = layers.Dense(4)(layers.GlobalAveragePooling2D()(x))
    between[1] = keras.Model(pixels, x)
    with pytest.raises(InputError, match="'bent'"):
        make(between)
    behind = [network(seed, behind=[Cubed(name="bent")]) for seed in (0, 1)]
    if method in ("gal", "trs"):
        with pytest.raises(InputError, match="'bent'"):
            make(behind)
    else:
        make(behind)
    first = [network(seed, Cubed(name="bent")) for seed in (0, 1)]
    if method == "guardian":  # its gradients are of kernels, all behind
        make(first)
    else:
        with pytest.raises(InputError, match="'bent'"):
            make(first)
    # The others take no gradients.
    for harmless in (parl_tf.Ensemble, parl_tf.ADP):
        harmless(behind)


def test_turned_off_by_name_it_trains_and_is_saved_and_loaded_without(tmp_path):
    members = [network(seed, Cubed()) for seed in (0, 1)]
    ensemble = parl_tf.GAL(members, check_second_derivatives=False)
    assert "check_second_derivatives" not in ensemble.get_config()
    ensemble.compile(optimizer="sgd", loss=logits_loss())
    images = np.random.default_rng(0).uniform(size=(4, 8, 8, 3)).astype("float32")
    ensemble.train_on_batch(images, np.arange(4))
    ensemble.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), ensemble(images))
    parl_tf.GAL.from_config(ensemble.get_config())
    with pytest.raises(InputError, match="is missing"):
        parl_tf.GAL(loaded.members)


def test_a_layer_inside_of_nested_models_is_named():
    inner = network(0, behind=[layers.Conv2D(3, 1), Cubed(name="bent")])
    part = keras.Model(inner.inputs, inner.get_layer("bent").output, name="part")
    sequence = keras.Sequential([keras.Input((8, 8, 3)), part], name="sequence")
    pixels = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(sequence(layers.Rescaling(1.0)(pixels)))
    with pytest.raises(InputError, match="'sequence/part/bent'"):
        parl_tf.GAL([network(1), keras.Model(pixels, layers.Dense(4)(x))])


class Bent(keras.Model):
    """A functional model whose call is more than its graph."""

    def call(self, inputs, training=None):
        return cubed_once(super().call(inputs, training=training))


def test_a_member_with_a_call_of_its_own_is_one_layer():
    graph = network(1)
    with pytest.raises(InputError, match="'own' \\(Bent\\)"):
        parl_tf.GAL([network(0), Bent(graph.inputs, graph.outputs, name="own")])


def test_several_members_of_several_inputs_a_layer():
    def branched(seed, joint):
        keras.utils.set_random_seed(seed)
        pixels = keras.Input((8, 8, 3))
        sides = [layers.Conv2D(4, 1)(pixels), layers.Conv2D(4, 3, padding="same")(pixels)]
        x = layers.GlobalAveragePooling2D()(joint(sides))
        return keras.Model(pixels, layers.Dense(4)(x))

    class Joined(layers.Layer):
        def call(self, inputs):
            return inputs[0] + cubed_once(inputs[1])

    for joint in (layers.Multiply(), layers.Concatenate(), lambda sides: sides[0] * sides[1] + 1):
        parl_tf.GAL([branched(0, joint), branched(1, layers.Add())])
    with pytest.raises(InputError, match="'joined"):
        parl_tf.GAL([branched(0, layers.Add()), branched(1, Joined())])


def verdict(layer, shape, training=True):
    values = tf.random.stateless_normal(shape, (0, 1))
    layer(values)
    return judged(LayerCall(layer, (values,), {}, (0,), (), training))


RIGHT = [
    lambda: layers.Conv2D(4, 3, strides=2, padding="same"),
    lambda: layers.DepthwiseConv2D(3),
    lambda: layers.SeparableConv2D(4, 3),
    lambda: layers.Conv2DTranspose(4, 3, strides=2),
    lambda: layers.Dense(4, activation="gelu"),
    lambda: layers.BatchNormalization(),
    lambda: layers.BatchNormalization(axis=1),
    lambda: layers.LayerNormalization(),
    lambda: layers.GroupNormalization(3),
    lambda: layers.LayerNormalization(axis=[1, 2]),
    lambda: layers.LayerNormalization(axis=(1, -1), scale=False),
    lambda: layers.GroupNormalization(2, axis=1, center=False),
    lambda: layers.RMSNormalization(),
    lambda: layers.UnitNormalization(),
    lambda: layers.SpectralNormalization(layers.Conv2D(4, 3)),
    lambda: layers.ReLU(),
    lambda: layers.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.3),
    lambda: layers.LeakyReLU(),
    lambda: layers.Conv2D(4, 3, activation="softsign"),
    lambda: layers.Dense(4, activation="leaky_relu"),
    lambda: layers.PReLU(),
    lambda: layers.ELU(),
    lambda: layers.Activation("softsign"),
    lambda: layers.Activation("softmax"),
    lambda: layers.MaxPooling2D(),
    lambda: layers.AveragePooling2D(3, strides=2, padding="same"),
    lambda: layers.GlobalMaxPooling2D(),
    lambda: layers.Resizing(5, 9),
    lambda: layers.Resizing(5, 9, interpolation="nearest"),
    lambda: layers.Resizing(5, 9, interpolation="bicubic", antialias=True),
    lambda: layers.Resizing(5, 9, crop_to_aspect_ratio=True),
    lambda: layers.Resizing(5, 9, pad_to_aspect_ratio=True, fill_value=0.5),
    lambda: layers.UpSampling2D(interpolation="bilinear"),
    lambda: layers.UpSampling2D(interpolation="lanczos3"),
    lambda: layers.Dropout(0.5, seed=1),
    lambda: layers.SpatialDropout2D(0.5),
    lambda: layers.GaussianNoise(0.5),
    lambda: layers.GaussianDropout(0.5),
    lambda: layers.RandomFlip(),
    lambda: layers.RandomContrast(0.5, value_range=(0, 1)),
    lambda: layers.Rescaling(255.0),
    lambda: layers.Normalization(mean=0.5, variance=0.1),
    lambda: layers.Reshape((16, 24)),
    lambda: layers.CenterCrop(6, 6),
    lambda: layers.Lambda(lambda x: tf.nn.relu(x) * tf.sin(x)),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("number", range(len(RIGHT)))
def test_layers_are_rebuilt_and_found_right(number, training):
    assert verdict(RIGHT[number](), (4, 8, 8, 6), training) == Verdict(None, True, True)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (layers.BatchNormalization, "is wrong"),
        (layers.LayerNormalization, "is wrong"),
        (lambda: layers.GroupNormalization(3), "is wrong"),
        (lambda: layers.Resizing(5, 9), "is missing"),
        (lambda: layers.UpSampling2D(interpolation="bilinear"), "is missing"),
        (lambda: layers.Resizing(5, 9, interpolation="nearest"), "is missing"),
        (lambda: layers.Activation("softsign"), "is missing"),
    ],
)
def test_what_tensorflow_lacks_is_found_where_it_is_not_substituted(monkeypatch, make, fault):
    # Were this to fail, TensorFlow would have it right, and the substitute could go.
    monkeypatch.setattr(single_layers, "substitute", lambda operation: operation)
    assert fault in verdict(make(), (4, 8, 8, 6)).fault


def copied(layer):
    return type(layer).from_config(layer.get_config())


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_other_types_are_taken(dtype):
    keras.config.set_dtype_policy(dtype)
    try:
        first = (
            layers.Resizing(6, 6),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
        )
        for method in METHODS.values():
            if method is not METHODS["guardian"]:
                method([network(seed, *map(copied, first)) for seed in (0, 1)])
        faulty = [network(seed, Cubed(name="bent")) for seed in (0, 1)]
        with pytest.raises(InputError, match="'bent'"):
            parl_tf.GAL(faulty)
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_layer_of_unseeded_draws_is_not_refused(monkeypatch):
    verdicts = {}

    def kept(call):
        verdicts[call.operation.name] = judged(call)
        return verdicts[call.operation.name]

    monkeypatch.setattr(second_derivatives, "judged", kept)

    @tf.custom_gradient
    def drawn(x):
        noise = tf.random.uniform(tf.shape(x))
        return x**3 * noise, lambda upstream: upstream * 3 * tf.stop_gradient(x) ** 2 * noise

    def noisy(name, draws):
        return layers.Lambda(lambda x: drawn(x) if draws else cubed_once(x), name=name)

    # Differences of what draws anew are no measure, even where the derivative is missing.
    parl_tf.GAL([network(0, noisy("drawing", True)), network(1)])
    assert verdicts["drawing"].fault is None
    with pytest.raises(InputError, match="'still'"):
        parl_tf.GAL([network(0, noisy("still", False)), network(1)])
    assert verdicts["still"].fault == "is missing"


def test_a_layer_that_changed_since_it_was_made_is_judged_as_it_is():
    class Chosen(layers.Layer):
        function = staticmethod(tf.sin)

        def call(self, inputs):
            return self.function(inputs)

    changed = Chosen(name="changed")
    changed.function = cubed_once
    with pytest.raises(InputError, match="'changed'"):
        parl_tf.GAL([network(0, Chosen()), network(1, changed)])


def test_every_layer_of_a_network_of_the_paper_s_is_judged():
    member = parl_tf.resnet20(10, input_shape=(16, 16, 3))
    for name, call in _calls(member, whole_network(member)):
        assert judged(call) == Verdict(None, True, True), name
    part = Differentiated([member.layers[6].output], [member.layers[4].kernel])
    names = [name for name, _ in _calls(member, part)]
    assert names == [layer.name for layer in member.layers[4:7]]


def test_each_kind_of_layer_is_judged_once(monkeypatch):
    counts = []

    def counted(call):
        counts[-1] += 1
        return judged(call)

    monkeypatch.setattr(second_derivatives, "judged", counted)
    for remembered in (False, False, True):
        if not remembered:
            monkeypatch.setattr(second_derivatives, "_right", set())
        counts.append(0)
        # Three of them have three times the layers, and no other kinds.
        num_members = 2 if len(counts) == 1 else 3
        parl_tf.GAL([network(seed, layers.ReLU()) for seed in range(num_members)])
    # A ReLU, a convolution and an activation, the pooling and the end.
    assert counts == [5, 5, 0]


@tf.custom_gradient
def squared_once(x):
    """A square whose derivative is right, and takes its input for a constant."""
    return x**2, lambda upstream: upstream * tf.stop_gradient(2 * x)


def test_whether_a_layer_is_refused_does_not_follow_from_its_weights():
    # By one random direction in float32, as for what is not registered, one of 16 passed.
    faults = set()
    for seed in range(16):
        keras.utils.set_random_seed(seed)
        layer = layers.Conv2D(3, 3, activation=squared_once)
        layer.build((3, 8, 8, 3))
        images = tf.constant(np.random.default_rng(0).uniform(size=(3, 8, 8, 3)), tf.float32)
        call = LayerCall(layer, (images,), {}, (0,), (), True)
        faults.add(judged(call).fault)
    assert faults <= {"is wrong", "is missing"}


def test_a_layer_that_cannot_be_computed_in_float64_is_judged_in_its_own_type():
    @tf.custom_gradient
    def squared_in_float32(x):
        return x**2, lambda upstream: upstream * tf.stop_gradient(2 * x) * tf.constant(1.0)

    members = [network(seed, Applied(squared_in_float32)) for seed in range(2)]
    with pytest.raises(InputError, match="GAL needs second derivatives.*is missing"):
        parl_tf.GAL(members)


def test_an_adapted_normalization_is_rebuilt():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3, 2, (64, 8, 8, 3)))
    call = LayerCall(layer, (tf.ones((3, 8, 8, 3)),), {}, (0,), (), False)
    assert judged(call) == Verdict(None, True, True)


def test_nothing_else_is_drawn_or_changed():
    members = [
        network(seed, layers.RandomFlip(seed=1), layers.BatchNormalization(), layers.Dropout(0.5))
        for seed in (0, 1)
    ]

    def state():
        values = [v.numpy().tolist() for member in members for v in member.variables]
        return json.dumps([values, random.getstate(), tf.random.uniform(()).numpy().item()])

    states = []
    for check in (False, True):
        keras.utils.set_random_seed(5)
        for method in METHODS.values():
            method(members, check_second_derivatives=check)
        states.append(state())
    assert states[0] == states[1]


@pytest.mark.parametrize("by_layer", [True, False])
def test_moments_over_replicas_are_right_before_there_are_any(by_layer):
    """In a strategy's scope Keras takes those of `tf.nn.moments`, which are not."""
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        members = []
        for _ in range(2):
            x = keras.Input((8, 8, 3))
            y = layers.Conv2D(4, 3)(x)
            if by_layer:
                y = layers.BatchNormalization(synchronized=True)(y)
            else:
                mean, variance = keras.ops.moments(y, [0], keepdims=True, synchronized=True)
                y = (y - mean) * keras.ops.rsqrt(variance + 1e-3)
            y = layers.Dense(10)(layers.Flatten()(layers.Activation("tanh")(y)))
            members.append(keras.Model(x, y))
        parl_tf.GAL(members)
