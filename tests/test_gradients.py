import itertools

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parl_tf.errors import InputError
from parl_tf.tensors import LOSS_SCALE, pairwise_cosine, project, summed_gradients


def test_cosine_of_every_pair_in_order():
    gradients = np.random.default_rng(0).normal(size=(3, 5, 4, 4, 2))
    flat = gradients.reshape(3, 5, -1)
    expected = [
        [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(rows, 2)]
        for rows in flat.transpose(1, 0, 2)
    ]
    np.testing.assert_allclose(pairwise_cosine(list(gradients)), expected, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-11, 1e-6, 1.0, 1e6, 1e18])
def test_cosine_does_not_depend_on_scale(scale):
    first, second = np.random.default_rng(1).normal(size=(2, 3, 8)).astype("float32")
    expected = pairwise_cosine([first, second])
    scaled = pairwise_cosine([first * np.float32(scale), second])
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)


def test_zero_gradient_has_cosine_zero_and_derivative_zero():
    zero, other = tf.zeros((2, 6)), tf.ones((2, 6))
    with tf.GradientTape() as tape:
        tape.watch([zero, other])
        cosine = pairwise_cosine([zero, other, zero])
    np.testing.assert_array_equal(cosine, np.zeros((2, 3)))
    for derivative in tape.gradient(cosine, [zero, other]):
        np.testing.assert_array_equal(derivative, np.zeros((2, 6)))


def test_nan_is_not_hidden():
    broken = tf.constant([[np.nan, 1.0]])
    assert np.isnan(pairwise_cosine([broken, tf.ones((1, 2))])).all()


def test_derivative_against_finite_differences():
    first, second = np.random.default_rng(2).normal(size=(2, 1, 5))
    with tf.GradientTape() as tape:
        variable = tf.constant(first)
        tape.watch(variable)
        cosine = pairwise_cosine([variable, second])
    step = 1e-6
    expected = [
        float(
            pairwise_cosine([first + step * unit, second])[0, 0]
            - pairwise_cosine([first - step * unit, second])[0, 0]
        )
        / (2 * step)
        for unit in np.eye(5)
    ]
    np.testing.assert_allclose(tape.gradient(cosine, variable)[0], expected, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_compared_in_float32(dtype):
    gradient = tf.cast(tf.fill((1, 10_000), 300.0), dtype)  # squares are beyond float16
    cosine = pairwise_cosine([gradient, gradient])
    assert cosine.dtype == tf.float32
    np.testing.assert_allclose(cosine, [[1.0]], rtol=1e-5)


def test_refuses_one_gradient_and_different_shapes():
    with pytest.raises(InputError, match="at least two gradients. Received: 1"):
        pairwise_cosine([tf.ones((2, 3))])
    with pytest.raises(InputError, match="one shape"):
        pairwise_cosine([tf.ones((2, 3)), tf.ones((2, 4))])


def test_summed_gradients_in_half_precision_may_be_beyond_its_largest_number():
    kernel = tf.constant([3.0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(kernel)
        output = tf.cast(kernel, tf.float16) * tf.ones(100_000, tf.float16)
    ((gradient,),) = summed_gradients(tape, [output], [kernel])
    assert float(gradient[0]) == pytest.approx(100_000, rel=1e-3)  # float16 ends at 65,504


def test_gradients_of_losses_that_are_nearly_0_survive_half_precision():
    pixels = tf.constant([1.0])
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        logit = tf.cast(tf.cast(pixels, tf.float16), tf.float32)
        loss = 1e-8 * logit
    (gradient,) = summed_gradients(tape, [loss], pixels, scale=LOSS_SCALE)
    assert float(gradient[0]) == pytest.approx(1e-8, rel=0.01)


@pytest.mark.parametrize("scale", [2.0**-8, 2.0**10])
def test_the_scale_of_gradients_changes_no_bit_of_float32(scale):
    draw = np.random.default_rng(0)
    inputs, kernel = (tf.constant(draw.normal(size=(5, 5)), tf.float32) for _ in range(2))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        output = tf.nn.softplus(inputs @ kernel) @ kernel
    (scaled,) = summed_gradients(tape, [output], inputs, scale=scale)
    np.testing.assert_array_equal(scaled, tape.gradient(output, inputs))


def test_summed_gradients_are_per_example_and_zero_where_unconnected():
    inputs = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        outputs = [inputs**2, tf.ones((2, 7))]
    squares, nothing = summed_gradients(tape, outputs, inputs)
    np.testing.assert_array_equal(squares, 2 * inputs)
    np.testing.assert_array_equal(nothing, np.zeros((2, 2)))


pixels = hnp.arrays("float32", (2, 5), elements=st.floats(0, 1, width=32))
anything = hnp.arrays("float32", (2, 5), elements=st.floats(-2, 3, width=32))


@hypothesis.given(anything, pixels, st.floats(1e-4, 1))
def test_projection_is_inside_nearest_and_idempotent(images, centers, epsilon):
    projected = project(images, centers, epsilon).numpy()
    assert np.abs(projected.astype("float64") - centers).max() <= epsilon + 2**-22
    assert projected.min() >= 0
    assert projected.max() <= 1
    inside = np.clip(images, np.maximum(centers - epsilon, 0), np.minimum(centers + epsilon, 1))
    np.testing.assert_allclose(projected, inside, atol=2**-22)
    np.testing.assert_array_equal(project(projected, centers, epsilon), projected)
