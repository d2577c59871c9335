"""Resizing against matrices made of TensorFlow's values, and trained through."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.derivatives import assert_step_follows_the_loss
from harness.marks import slow_except

import parl_tf
from parl_tf.graphs.substitutes import substitute

METHODS = ["nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"]
SHAPE = (6, 5)


def jacobian(size, **options):
    """The matrix (pixels after, pixels before) of a resizing, by its values on unit images."""
    units = np.eye(np.prod(SHAPE), dtype="float32").reshape(-1, *SHAPE, 1)
    return tf.image.resize(units, size, **options).numpy().reshape(len(units), -1).T


def substituted(layer, images):
    """A layer, once built, as it is called where gradients are differentiated."""
    layer(images)
    return substitute(layer)


def derivatives(images, upstream, size, method, antialias=False):
    """Resized images, their gradient for an upstream gradient, and derivatives of its sine."""
    resizing = keras.layers.Resizing(*size, method, antialias=antialias, dtype=images.dtype.name)
    resize = substituted(resizing, images)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch([images, upstream])
        with tf.GradientTape() as inner:
            inner.watch(images)
            resized = resize(images)
        gradient = inner.gradient(resized, images, output_gradients=upstream)
        value = tf.reduce_sum(tf.sin(gradient) * images)
    return resized, gradient, *outer.gradient(value, [upstream, images])


def ways(method, antialias):
    """How a step may run; TensorFlow resizes under XLA in two modes only."""
    yield lambda *given, **options: derivatives(*given, **options)
    yield tf.function(derivatives)
    unknown = [tf.TensorSpec((None, None, None, 2))] * 2
    yield lambda images, upstream, size, **options: tf.function(
        lambda *given: derivatives(*given, size, **options), input_signature=unknown
    )(images, upstream)
    if method == "nearest" or (method == "bilinear" and not antialias):
        yield tf.function(derivatives, jit_compile=True)


@pytest.mark.parametrize(
    "size",
    [(9, 12), (4, 3), *(pytest.param(same, marks=pytest.mark.slow) for same in ((6, 8), SHAPE))],
)
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_values_stay_and_all_derivatives_are_those_of_matrices(method, antialias, size):
    options = {"method": method, "antialias": antialias}
    draw = np.random.default_rng(0)
    images = tf.constant(draw.uniform(size=(3, *SHAPE, 2)), tf.float32)
    upstream = tf.constant(draw.normal(size=(3, *size, 2)), tf.float32)
    matrix = jacobian(size, **options).astype("float64")

    def times(matrix, values, to):
        flat = values.reshape(len(values), -1, 2)
        return np.einsum("pq,bqc->bpc", matrix, flat).reshape(len(values), *to, 2)

    gradient = times(matrix.T, upstream.numpy(), SHAPE)
    expected = (
        gradient,
        times(matrix, np.cos(gradient) * images.numpy(), size),
        np.sin(gradient),
    )
    for way in ways(method, antialias):
        resized, *found = way(images, upstream, size, **options)
        np.testing.assert_allclose(resized, tf.image.resize(images, size, **options), atol=1e-6)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)


def test_matrices_are_used_where_xla_has_no_gradient_of_tensorflow_s():
    images, upstream = tf.ones((1, *SHAPE, 1)), tf.ones((1, 3, 3, 1))

    @tf.function(jit_compile=True)
    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(images)
            resized = tf.image.resize(images, (3, 3), method="nearest")
        return tape.gradient(resized, images, output_gradients=upstream)

    with pytest.raises(tf.errors.InvalidArgumentError, match="ResizeNearestNeighborGrad"):
        gradient()  # were this to work, TensorFlow's own would do
    resize = substituted(keras.layers.Resizing(3, 3, "nearest"), images)

    @tf.function(jit_compile=True)
    def substitute_gradient():
        with tf.GradientTape() as tape:
            tape.watch(images)
            resized = resize(images)
        return tape.gradient(resized, images, output_gradients=upstream)

    assert np.sum(substitute_gradient()) == 9


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "lanczos3"])
def test_other_types_are_those_of_keras(dtype, method):
    values = np.random.default_rng(0).uniform(size=(2, *SHAPE, 3))
    images = tf.constant(values, dtype)
    plain = keras.layers.Resizing(4, 7, method, dtype=dtype)(images)
    upstream = tf.ones_like(plain)
    resized, gradient, *second = derivatives(images, upstream, (4, 7), method=method)
    assert [resized.dtype, gradient.dtype] == [plain.dtype, images.dtype]
    np.testing.assert_array_equal(resized, plain)
    single = derivatives(
        tf.cast(images, "float32"), tf.cast(upstream, "float32"), (4, 7), method=method
    )
    for one, other in zip([gradient, *second], single[1:], strict=True):
        np.testing.assert_allclose(tf.cast(one, "float32"), other, rtol=0.05, atol=0.05)


RESIZINGS = {
    "integers": lambda: keras.layers.Resizing(3, 4, dtype="uint8"),
    "area": lambda: keras.layers.Resizing(3, 9, "area"),
    "cropped": lambda: keras.layers.Resizing(9, 3, crop_to_aspect_ratio=True),
    "padded": lambda: keras.layers.Resizing(9, 9, pad_to_aspect_ratio=True, fill_value=3.0),
    "upsampled": lambda: keras.layers.UpSampling2D((2, 3), interpolation="bicubic"),
    "repeated": lambda: keras.layers.UpSampling2D(2),
}


@pytest.mark.parametrize("name", RESIZINGS)
def test_whatever_is_resized_is_what_keras_makes_of_it(name):
    images = np.random.default_rng(0).uniform(0, 255, (2, *SHAPE, 3)).astype("float32")
    layer = RESIZINGS[name]()
    np.testing.assert_array_equal(substituted(layer, images)(images), layer(images))


@pytest.mark.parametrize("name", ["cropped", "padded", "upsampled"])
def test_where_keras_does_more_than_resize_it_can_be_differentiated_twice_too(name):
    images = tf.random.stateless_uniform((2, *SHAPE, 1), (0, 1))
    resize = substituted(RESIZINGS[name](), images)
    nothing = resize(tf.zeros((1, *SHAPE, 1))).numpy()
    units = np.eye(30, dtype="float32").reshape(-1, *SHAPE, 1)
    matrix = (resize(tf.constant(units)) - nothing).numpy().reshape(30, -1)
    weights = tf.random.stateless_normal(nothing.shape, (0, 2))
    with tf.GradientTape() as outer:
        outer.watch([images, weights])
        with tf.GradientTape() as inner:
            inner.watch(images)
            value = tf.reduce_sum(weights * resize(images) ** 2) / 2
        gradient = inner.gradient(value, images)
        length = tf.reduce_sum(gradient)
    weighted = matrix * weights.numpy().reshape(-1)
    values = resize(images).numpy().reshape(2, -1)
    np.testing.assert_allclose(tf.reshape(gradient, (2, -1)), values @ weighted.T, rtol=1e-4)
    found = outer.gradient(length, [images, weights])
    expected = np.sum(weighted @ matrix.T, axis=0)
    np.testing.assert_allclose(
        tf.reshape(found[0], (2, -1)), [expected, expected], rtol=1e-3, atol=1e-4
    )
    by_weights = np.sum(values * matrix.sum(axis=0), axis=0)
    np.testing.assert_allclose(tf.reshape(found[1], -1), by_weights, rtol=1e-4, atol=1e-4)


def network(seed, *first, inside=()):
    """A smooth network that begins with other layers, or has them behind its first convolution."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            *first,
            layers.Conv2D(3, 3, strides=2),
            layers.Activation("tanh"),
            *inside,
            layers.Conv2D(3, 2),
            layers.Activation("tanh"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )


def resized(seed, interpolation="bilinear", **options):
    return network(seed, keras.layers.Resizing(5, 7, interpolation=interpolation, **options))


def resized_by_an_operation(seed):
    pixels = keras.Input((6, 7, 2))
    return keras.Model(pixels, network(seed)(keras.ops.image.resize(pixels, (8, 8))))


MEMBERS = {
    "first": resized,
    "nearest": lambda seed: resized(seed, "nearest"),
    "bicubic": lambda seed: resized(seed, "bicubic"),
    "lanczos3": lambda seed: resized(seed, "lanczos3"),
    "antialiased": lambda seed: resized(seed, antialias=True),
    "cropped": lambda seed: resized(seed, crop_to_aspect_ratio=True),
    "padded": lambda seed: resized(seed, pad_to_aspect_ratio=True),
    "inside": lambda seed: network(
        seed, inside=[keras.layers.UpSampling2D(interpolation="bilinear")]
    ),
    "inside, bicubic": lambda seed: network(
        seed, inside=[keras.layers.UpSampling2D((2, 3), interpolation="bicubic")]
    ),
    "operation": resized_by_an_operation,
}
ENSEMBLES = {
    "parl": lambda members: parl_tf.PARL(members, num_layers=2, accuracy_weight=0.0),
    "parl, batch": lambda members: parl_tf.PARL(
        members, num_layers=2, accuracy_weight=0.0, penalty_batch_norm="batch"
    ),
    "gal": lambda members: parl_tf.GAL(members, accuracy_weight=0.0),
    "trs": lambda members: parl_tf.TRS(
        members, accuracy_weight=0.0, first_radius=0.0, last_radius=0.0
    ),
    "guardian": lambda members: parl_tf.Guardian(
        members, num_layers=2, accuracy_weight=0.0, tap="activation", norms="differentiated"
    ),
}


CASES = [
    *(("parl", name) for name in MEMBERS),
    *(("gal", name) for name in ("first", "nearest", "inside", "operation")),
    *(("trs", name) for name in ("first", "lanczos3")),
    ("guardian", "inside"),
    ("parl, batch", "inside"),
]


@pytest.mark.parametrize(
    ("method", "name"),
    slow_except(
        CASES,
        *(("parl", "inside"), ("gal", "first"), ("trs", "lanczos3"), ("guardian", "inside")),
    ),
)
def test_a_term_trains_through_resizing(float64, name, method):
    ensemble = ENSEMBLES[method]([MEMBERS[name](seed) for seed in range(2)])
    draw = np.random.default_rng(0)
    images = draw.uniform(size=(6, *ensemble.image_shape))
    # TensorFlow resizes float64 in float32, so that smaller steps would measure rounding.
    assert_step_follows_the_loss(
        ensemble,
        images,
        draw.integers(4, size=6),
        rel=1e-3,
        step=3e-4,
        absolute=1e-3,
        # In these modes it has no first derivative in float64, which validation takes.
        validates=name not in ("lanczos3", "antialiased"),
    )
