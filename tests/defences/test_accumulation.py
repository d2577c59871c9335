"""Gradient accumulation: each batch of an update has draws of its own."""

import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import examples, logits_loss, plain_network

import parl_tf
from parl_tf.defences.crafting import uniform

STEPS = 8


@keras.saving.register_keras_serializable(package="tests")
class Drawing(parl_tf.Ensemble):
    """An ensemble that reports what it draws."""

    def __init__(self, members, **options):
        super().__init__(members, reported=["draw"], **options)

    def terms(self, forward):
        return {"draw": uniform(tf.constant([1]), self.step_seed("draw"), tf.float32)[0]}


def compiled(ensemble, optimizer, jit_compile=False):
    ensemble.compile(optimizer, logits_loss(), jit_compile=jit_compile)
    return ensemble


def members():
    return [plain_network(0), plain_network(1)]


def sgd(accumulation, scaled=False, rate=0.0):
    optimizer = keras.optimizers.SGD(rate, gradient_accumulation_steps=accumulation)
    if scaled:
        return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)
    return optimizer


def reports(ensemble, name, count=STEPS):
    """What training steps on one and the same batch report."""
    images, labels = examples(8)
    found = []
    for _ in range(count):
        ensemble.reset_metrics()  # Keras 3.14 reports the mean of all steps
        found.append(float(ensemble.train_on_batch(images, labels, return_dict=True)[name]))
    return found


def drawn_by_hand(seed=5):
    """What the steps 0, 1, 2, ... draw, by the formula that all runs so far were drawn by."""
    key = tf.constant([seed, zlib.crc32(b"draw") & 0x7FFFFFFF], tf.int32)
    seeds = [tf.random.fold_in(key, step, alg="philox") for step in range(STEPS)]
    return [float(uniform(tf.constant([1]), each, tf.float32)[0]) for each in seeds]


OFTEN_XLA = pytest.mark.parametrize(
    "jit_compile",
    [pytest.param(False, id="no XLA"), pytest.param(True, id="XLA", marks=pytest.mark.slow)],
)


@OFTEN_XLA
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled loss"])
@pytest.mark.parametrize("accumulation", [None, 4])
def test_each_batch_is_a_step_to_draw_for(accumulation, scaled, jit_compile):
    ensemble = compiled(Drawing(members(), seed=5), sgd(accumulation, scaled), jit_compile)
    found = reports(ensemble, "draw")
    assert found == drawn_by_hand()
    assert len(set(found)) == STEPS
    assert int(ensemble.optimizer.iterations) == STEPS // (accumulation or 1)


@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled loss"])
def test_a_resumed_update_draws_on_in_its_middle(scaled, tmp_path):
    ensemble = compiled(Drawing(members(), seed=5), sgd(4, scaled, rate=0.1))
    found = reports(ensemble, "draw", 3)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    loaded.jit_compile = False
    found += reports(loaded, "draw", STEPS - 3)
    assert found == drawn_by_hand()
    reports(ensemble, "draw", STEPS - 3)
    for ours, theirs in zip(loaded.trainable_variables, ensemble.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@OFTEN_XLA
@pytest.mark.parametrize(
    ("method", "options", "drawn"),
    [
        (parl_tf.Ensemble, {"adversarial_training": {"num_steps": 1}}, "cross_entropy"),
        (parl_tf.DVERGE, {"num_steps": 1}, "cross_entropy"),
        (parl_tf.TRS, {"num_steps": 1, "move_half": True}, "smoothness"),
    ],
    ids=["adversarial training", "DVERGE's partners", "TRS's starts"],
)
def test_every_draw_of_an_update_is_another(method, options, drawn, jit_compile):
    # Neither weights nor statistics change: all that differs between steps is drawn.
    ensemble = compiled(method(members(), **options), sgd(4), jit_compile)
    assert len(set(reports(ensemble, drawn))) == STEPS
