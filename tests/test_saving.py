"""What Keras writes of an ensemble, read again."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import examples, logits_loss, residual_network

import parl_tf
from parl_tf.defences import METHODS


def options(method):
    return {"num_layers": 2} if method in ("parl", "guardian") else {}


@pytest.mark.parametrize("method", METHODS)
def test_exported_it_answers_as_before_whatever_the_batch(method, tmp_path):
    members = [residual_network(0), residual_network(1)]
    ensemble = METHODS[method](members, **options(method))
    ensemble.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    for count in (1, 5):
        images, _ = examples(count)
        np.testing.assert_allclose(
            loaded.serve(images).numpy(), ensemble.predict(images, verbose=0), atol=1e-6
        )


def test_weights_come_with_the_optimizer_even_before_the_first_step(tmp_path):
    images, labels = examples(8)
    members = [residual_network(0), residual_network(1)]
    trained = parl_tf.Ensemble(members)
    trained.compile("adam", logits_loss(), jit_compile=False)
    trained.train_on_batch(images, labels)
    trained.save_weights(tmp_path / "ensemble.weights.h5")
    fresh = parl_tf.Ensemble([residual_network(7), residual_network(8)])
    fresh.compile("adam", logits_loss(), jit_compile=False)
    fresh.load_weights(tmp_path / "ensemble.weights.h5")
    for ensemble in (trained, fresh):
        ensemble.train_on_batch(images, labels)
    for ours, theirs in (
        *zip(trained.variables, fresh.variables, strict=True),
        *zip(trained.optimizer.variables, fresh.optimizer.variables, strict=True),
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_model_checkpoints_hold_the_best_and_the_last_epoch(tmp_path):
    images, labels = examples(24)
    ensemble = parl_tf.PARL([residual_network(0), residual_network(1)], num_layers=1)
    ensemble.compile("adam", logits_loss(), jit_compile=False)
    worse = iter([1.0, 0.5, 2.0])
    after = []

    class Judge(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            logs["score"] = next(worse)
            after.append(self.model.get_weights())

    ensemble.fit(
        *(images, labels),
        batch_size=8,
        epochs=3,
        verbose=0,
        callbacks=[
            Judge(),
            keras.callbacks.ModelCheckpoint(
                tmp_path / "best.keras", monitor="score", mode="min", save_best_only=True
            ),
            keras.callbacks.ModelCheckpoint(tmp_path / "last.keras"),
        ],
    )
    for name, epoch in (("best", 1), ("last", 2)):
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        assert int(loaded.optimizer.iterations) == 3 * (epoch + 1)
        for found, expected in zip(loaded.get_weights(), after[epoch], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_whether_by_xla_is_for_the_machine_that_loads_to_decide(tmp_path):
    ensemble = parl_tf.Ensemble([residual_network(0), residual_network(1)])
    ensemble.compile("adam", logits_loss(), jit_compile=True)  # as "auto" is with a GPU
    ensemble.save(tmp_path / "gpu.keras")
    loaded = keras.models.load_model(tmp_path / "gpu.keras")
    assert loaded.jit_compile is bool(tf.config.list_physical_devices("GPU"))
    loaded.train_on_batch(*examples(4))
    ensemble.compile("adam", logits_loss(), jit_compile=False)
    ensemble.save(tmp_path / "never.keras")
    assert keras.models.load_model(tmp_path / "never.keras").jit_compile is False
