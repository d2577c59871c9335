"""Images crafted by steps, against the same steps in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import IMAGE_SHAPE, examples, residual_network

from parl_tf.defences.crafting import ascend, kept_state, random_start, uniform

SLOPES = np.random.default_rng(5).normal(size=(2, *IMAGE_SHAPE))
SIZES = {"epsilon": 0.1, "step_size": 0.03}


def value(images):
    """A function of images whose gradient turns as they move, summed over the batch."""
    ripples, inner = SLOPES[0] * tf.sin(25 * images), tf.reduce_sum(SLOPES[1] * images, [1, 2, 3])
    return tf.reduce_sum(ripples) + tf.reduce_sum(inner**2)


def value_gradient(images):
    """The gradient of `value`, by hand."""
    inner = np.sum(SLOPES[1] * images, axis=(1, 2, 3), keepdims=True)
    return 25 * SLOPES[0] * np.cos(25 * images) + 2 * inner * SLOPES[1]


def steps_by_hand(start, centers, epsilon, step_size, num_steps, decay_factor):
    images, momentum = start, np.zeros_like(start)
    for _ in range(num_steps):
        for index, gradient in enumerate(value_gradient(images)):
            momentum[index] = decay_factor * momentum[index] + gradient / np.abs(gradient).sum()
        moved = images + step_size * np.sign(momentum)
        images = np.clip(np.clip(moved, centers - epsilon, centers + epsilon), 0, 1)
    return images


def centers_and_start(count=3):
    """Images that touch 0 and 1, and others near them, in float64."""
    generator = np.random.default_rng(1)
    centers = np.clip(generator.uniform(-0.2, 1.2, size=(count, *IMAGE_SHAPE)), 0, 1)
    start = np.clip(centers + generator.uniform(-0.05, 0.05, size=centers.shape), 0, 1)
    return tf.constant(centers), tf.constant(start)


@pytest.mark.parametrize("wrapper", [lambda f: f, tf.function], ids=["eager", "graph"])
@pytest.mark.parametrize("decay_factor", [0.0, 0.5, 1.0])
def test_ascend_is_the_loop_by_hand(decay_factor, wrapper):
    centers, start = centers_and_start()
    options = {**SIZES, "num_steps": 7, "decay_factor": decay_factor}
    found = wrapper(lambda a, b: ascend(value, a, b, **options))(start, centers)
    expected = steps_by_hand(start.numpy(), centers.numpy(), **options)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("num_steps", [1, 4, 40])
def test_a_graph_traces_the_objective_once_and_steps_as_often_as_it_should(num_steps):
    calls = []

    def brightness(images):
        calls.append(1)
        return tf.reduce_sum(images)

    @tf.function
    def brighten(images):
        return ascend(brightness, images, images, epsilon=1, step_size=0.01, num_steps=num_steps)

    found = brighten(tf.zeros((2, *IMAGE_SHAPE)))
    assert len(calls) == 1
    np.testing.assert_allclose(found, 0.01 * num_steps, rtol=1e-5)


@pytest.mark.parametrize("decay_factor", [0.0, 1.0])
def test_ascend_stays_in_the_ball_and_the_range_of_pixels(decay_factor):
    centers, start = centers_and_start()
    found = ascend(value, start, centers, **SIZES, num_steps=20, decay_factor=decay_factor)
    assert 0.099 < np.abs(found - centers).max() <= 0.1 + 1e-12
    assert np.min(found) == 0
    assert np.max(found) == 1


@pytest.mark.parametrize("decay_factor", [0.0, 1.0])
def test_without_a_gradient_an_example_stays_where_it_is(decay_factor):
    centers, start = centers_and_start()
    found = ascend(
        lambda images: tf.reduce_sum(images[1:] ** 2),
        start,
        centers,
        **SIZES,
        num_steps=3,
        decay_factor=decay_factor,
    ).numpy()
    np.testing.assert_array_equal(found[0], start[0])
    assert (found[1:] != start.numpy()[1:]).any(axis=(1, 2, 3)).all()
    assert np.isfinite(found).all()


def test_no_gradient_flows_through_the_result():
    start, factor = centers_and_start()[1], tf.Variable(2.0, dtype=tf.float64)

    @tf.function
    def gradients(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            found = ascend(lambda x: factor * value(x), images, images, **SIZES, num_steps=2)
        return tape.gradient(found, [images, factor])

    assert gradients(start) == [None, None]


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_uniform_is_the_same_with_and_without_xla(dtype):
    draws = [
        tf.function(lambda seed: uniform((4, 50), seed, dtype), jit_compile=jit_compile)
        for jit_compile in (False, True)
    ]
    plain, xla = (draw(tf.constant([3, 4])) for draw in draws)
    assert plain.dtype == dtype
    np.testing.assert_array_equal(plain, xla)


def test_uniform_is_uniform_from_0_to_1():
    drawn = uniform((40_000,), tf.constant([1, 2]), tf.float32).numpy()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    np.testing.assert_allclose(np.histogram(drawn, 10, (0, 1))[0], 4000, rtol=0.06)
    assert drawn.mean() == pytest.approx(0.5, abs=0.005)


def test_uniform_follows_from_the_seed():
    first, again, other, third = (
        uniform((20,), tf.constant(seed), tf.float32).numpy()
        for seed in ([1, 2], [1, 2], [1, 3], [2, 2])
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    assert (first != third).all()


def test_random_start_fills_the_ball_and_stays_in_it():
    centers = np.linspace(0, 1, 3 * 8 * 8 * 3).reshape(3, 8, 8, 3)
    start = random_start(tf.constant(centers), 0.1, tf.constant([1, 2])).numpy()
    assert start.min() == 0
    assert start.max() == 1
    moves = (start - centers)[(centers > 0.1) & (centers < 0.9)]
    assert np.abs(moves).max() <= 0.1
    assert moves.min() < -0.098
    assert moves.max() > 0.098
    assert abs(moves.mean()) < 0.01


@pytest.mark.parametrize("wrapper", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_kept_state_restores_what_passes_in_training_mode_change(wrapper):
    pixels = keras.Input(IMAGE_SHAPE)
    random = keras.Model(pixels, keras.layers.Dropout(0.5, seed=1)(pixels))
    models = [residual_network(0), residual_network(1), random]
    images, _ = examples(4)

    @wrapper
    def passes(kept):
        if not kept:
            return [model(images, training=True) for model in models]
        with kept_state(models):
            return [model(images, training=True) for model in models]

    def state():
        return [np.concatenate([np.ravel(v.numpy()) for v in m.variables]) for m in models]

    before = state()
    passes(True)
    np.testing.assert_equal(state(), before)
    passes(False)
    assert all((now != then).any() for now, then in zip(state(), before, strict=True))


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_draws_are_those_of_float32_rounded(dtype):
    seed = tf.constant([1, 2])
    drawn = tf.cast(uniform((1000,), seed, dtype), tf.float32)
    np.testing.assert_allclose(drawn, uniform((1000,), seed, tf.float32), atol=4e-3)
    assert np.max(drawn) <= 1


def test_kept_state_restores_after_an_error_too():
    network = residual_network(0)
    before = network.get_weights()

    def fail_within():
        with kept_state([network]):
            network(examples(4)[0], training=True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()
    for found, expected in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
