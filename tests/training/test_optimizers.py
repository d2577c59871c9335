"""Adam in one operation a weight is Keras's Adam."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import examples, logits_loss, plain_network, residual_network

import parl_tf

CLASSES = (parl_tf.FusedAdam, keras.optimizers.Adam)
STEPS = 5


def variables(dtype):
    return [
        keras.Variable(np.linspace(-1, 1, 6).reshape(2, 3), dtype=dtype, name="kernel"),
        keras.Variable(np.ones(4), dtype=dtype, name="bias"),
    ]


def gradients(step, dtype):
    """Gradients of very different sizes, some of them 0."""
    draw = np.random.default_rng(step)
    scales = 10.0 ** draw.integers(-6, 3, 6).reshape(2, 3)
    return [
        tf.constant(draw.normal(size=(2, 3)) * scales, dtype),
        tf.constant([0.0, 1e-9, 1.0, -1.0], dtype) * (step + 1),
    ]


def updated(optimizer, dtype="float32", compiled=False):
    """Weights after some steps."""
    weights = variables(dtype)
    optimizer.build(weights)
    apply = tf.function(optimizer.apply) if compiled else optimizer.apply
    for step in range(STEPS):
        apply(gradients(step, dtype), weights) if not compiled else apply(gradients(step, dtype))
    return [weight.numpy() for weight in weights]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
        {"beta_1": 0.0},
        {"beta_2": 0.0},
        {"amsgrad": True},
        {"weight_decay": 0.1},
        {"clipvalue": 0.5},
        {"global_clipnorm": 0.5},
        {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
        {"gradient_accumulation_steps": 2},
        {"loss_scale_factor": 8.0},
        {
            "learning_rate": keras.optimizers.schedules.PiecewiseConstantDecay(
                [1, 3], [1.0, 0.1, 2.0]
            )
        },
    ],
    ids=lambda options: " ".join(options) or "defaults",
)
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 3e-7), ("float64", 1e-15)])
def test_updates_are_those_of_keras(options, dtype, bound):
    options = {"learning_rate": 0.01, **options}
    found, expected = (updated(each(**options), dtype) for each in CLASSES)
    for one, other, start in zip(found, expected, variables(dtype), strict=True):
        assert not np.array_equal(other, start)
        np.testing.assert_allclose(one, other, rtol=bound, atol=STEPS * bound)


def test_a_second_beta_that_rounds_to_one_updates_as_in_keras():
    for beta in (1.0, 1 - 1e-9):
        found, expected = (updated(each(0.01, beta_2=beta)) for each in CLASSES)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}])
def test_in_a_graph_updates_are_those_of_keras(options):
    found, expected = (updated(each(0.01, **options), compiled=True) for each in CLASSES)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-7, atol=1e-6)


def test_updates_stay_those_of_keras_to_rounding_relative_to_their_size():
    """1 - 0.999 has an error of 5e-5 if 0.999 is rounded first."""
    for each in CLASSES:
        assert updated(each(0.01))[1][2] != 1
    found, expected = (updated(each(1e-3), "float32")[1] - 1 for each in CLASSES)
    np.testing.assert_allclose(found[2:], expected[2:], rtol=5e-6 * STEPS)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_half_precision_are_updated_by_keras(dtype):
    found, expected = (updated(each(0.01, epsilon=1e-3), dtype) for each in CLASSES)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_sparse_gradients_are_taken():
    found = []
    for each in CLASSES:
        table = keras.Variable(np.ones((4, 2)), name="table")
        optimizer = each(0.1)
        optimizer.build([table])
        sparse = tf.IndexedSlices(tf.constant([[1.0, 2.0]]), tf.constant([2]), tf.constant([4, 2]))
        optimizer.apply([sparse], [table])
        found.append(table.numpy())
    np.testing.assert_array_equal(*found)
    assert found[0][2, 0] != 1


def test_a_step_has_one_update_for_each_weight():
    ensemble = parl_tf.Ensemble([plain_network(0), plain_network(1)])
    ensemble.compile(parl_tf.FusedAdam(), logits_loss())
    images, labels = examples(4)
    step = tf.function(ensemble.train_step)
    graph = step.get_concrete_function((tf.constant(images), tf.constant(labels))).graph
    counts = [operation.type for operation in graph.get_operations()]
    assert counts.count("ResourceApplyAdam") == len(ensemble.trainable_variables)
    assert counts.count("Sqrt") == 0


def trained(optimizer, network=residual_network):
    ensemble = parl_tf.Ensemble([network(0), network(1)])
    ensemble.compile(optimizer, logits_loss(), run_eagerly=True)
    ensemble.train_on_batch(*examples(8))
    return ensemble


def test_saved_and_loaded_it_continues_bit_for_bit(tmp_path):
    ensemble = trained(parl_tf.FusedAdam(0.01, beta_1=0.8))
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    assert type(loaded.optimizer) is parl_tf.FusedAdam
    assert loaded.optimizer.beta_1 == 0.8
    for model in (ensemble, loaded):
        model.train_on_batch(*examples(8))
    for one, other in zip(ensemble.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_made_with_one_continues_with_the_other(tmp_path):
    expected = trained(keras.optimizers.Adam(0.01))
    expected.save_weights(tmp_path / "kept.weights.h5")
    state = [variable.numpy() for variable in expected.optimizer.variables]
    expected.train_on_batch(*examples(8))
    for each in CLASSES:
        found = trained(each(0.01))
        found.load_weights(tmp_path / "kept.weights.h5")
        for variable, value in zip(found.optimizer.variables, state, strict=True):
            np.testing.assert_array_equal(variable, value)
        found.train_on_batch(*examples(8))
        for one, other in zip(found.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
