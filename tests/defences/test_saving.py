"""What Keras writes of an ensemble, read again."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.marks import slow_except
from harness.networks import examples, logits_loss, plain_network, residual_network

import parl_tf
from parl_tf.defences import METHODS
from parl_tf.errors import InputError


def options(method):
    return {"num_layers": 2} if method in ("parl", "guardian") else {}


@pytest.mark.parametrize("method", slow_except(METHODS, "parl"))
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
    trained.compile("adam", logits_loss(), run_eagerly=True)
    trained.train_on_batch(images, labels)
    trained.save_weights(tmp_path / "ensemble.weights.h5")
    fresh = parl_tf.Ensemble([residual_network(7), residual_network(8)])
    fresh.compile("adam", logits_loss(), run_eagerly=True)
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


def trained(steps=1, network=residual_network):
    ensemble = parl_tf.Ensemble([network(0), network(1)], accuracy_weight=0.75)
    ensemble.compile("adam", logits_loss(), run_eagerly=True)
    for _ in range(steps):
        ensemble.train_on_batch(*examples(8))
    return ensemble


def saved_by_function(ensemble, folder):
    keras.saving.save_model(ensemble, folder / "ensemble.keras")
    return keras.models.load_model(folder / "ensemble.keras")


def saved_as_folder(ensemble, folder):
    ensemble.save(folder / "unzipped", zipped=False)
    return keras.models.load_model(folder / "unzipped")


def saved_over(ensemble, folder):
    for _ in range(2):
        ensemble.save(str(folder / "ensemble.keras"), overwrite=True)
    return keras.models.load_model(folder / "ensemble.keras")


def loaded_as_weights(ensemble, folder):
    ensemble.save(folder / "ensemble.keras")
    other = trained(0)
    other.load_weights(folder / "ensemble.keras")
    return other


def saved_as_weights_by_function(ensemble, folder):
    keras.saving.save_weights(ensemble, folder / "ensemble.weights.h5")
    other = trained(0)
    keras.saving.load_weights(other, folder / "ensemble.weights.h5")
    return other


def saved_in_shards(ensemble, folder):
    ensemble.save_weights(folder / "shards.weights.json", max_shard_size=1e-6)
    assert len(list(folder.glob("*.weights.h5"))) > 1
    other = trained(0)
    other.load_weights(folder / "shards.weights.json")
    return other


def pickled(ensemble, folder):
    return pickle.loads(pickle.dumps(ensemble))


@pytest.mark.parametrize("steps", slow_except([0, 1], 1))
@pytest.mark.parametrize(
    "way",
    [
        pytest.param(saved_by_function, marks=pytest.mark.slow),
        saved_as_folder,
        pytest.param(saved_over, marks=pytest.mark.slow),
        loaded_as_weights,
        pytest.param(saved_as_weights_by_function, marks=pytest.mark.slow),
        saved_in_shards,
        pickled,
        lambda ensemble, folder: copy.deepcopy(ensemble),
        lambda ensemble, folder: copy.copy(ensemble),
    ],
)
def test_every_way_to_keep_an_ensemble_keeps_weights_and_optimizer(way, steps, tmp_path):
    ensemble = trained(steps)
    other = way(ensemble, tmp_path)
    assert type(other) is parl_tf.Ensemble
    assert other.accuracy_weight == 0.75
    assert not {id(v) for v in other.variables} & {id(v) for v in ensemble.variables}
    other.jit_compile, other.run_eagerly = False, True
    for model in (ensemble, other):
        model.train_on_batch(*examples(8))
    for ours, theirs in (
        *zip(ensemble.variables, other.variables, strict=True),
        *zip(ensemble.optimizer.variables, other.optimizer.variables, strict=True),
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(
    "way",
    [
        lambda ensemble: keras.models.model_from_json(ensemble.to_json()),
        keras.models.clone_model,
        lambda ensemble: parl_tf.Ensemble.from_config(ensemble.get_config()),
    ],
)
def test_configurations_make_an_equal_ensemble_of_other_weights(way):
    ensemble = trained()
    other = way(ensemble)
    ensemble.run_eagerly = other.run_eagerly = False
    assert type(other) is parl_tf.Ensemble
    assert other.accuracy_weight == 0.75
    other.set_weights(ensemble.get_weights())
    images, _ = examples(5)
    np.testing.assert_array_equal(
        other.predict(images, verbose=0), ensemble.predict(images, verbose=0)
    )


@pytest.mark.parametrize("network", [residual_network, plain_network])
@pytest.mark.parametrize("ending", [".h5", ".hdf5", "", ".tf", ".KERAS", ".weights.h5"])
def test_a_file_that_could_not_be_loaded_is_not_written(network, ending, tmp_path):
    ensemble = trained(0, network)
    before = tmp_path / f"ensemble{ending}"
    before.write_bytes(b"something else")
    for options in ({}, {"overwrite": True}, {"zipped": True}):
        with pytest.raises(InputError, match=r"ends in \.keras.*\.weights\.h5.*Received: /"):
            ensemble.save(before, **options)
    assert before.read_bytes() == b"something else"


@pytest.mark.parametrize("network", [residual_network, plain_network])
@pytest.mark.parametrize("ending", [".h5", ".hdf5"])
def test_hdf5_files_by_the_function_are_refused_and_do_no_harm(network, ending, tmp_path):
    ensemble = trained(1, network)
    with pytest.raises(InputError, match="could not load such a file.*an HDF5 file"):
        keras.saving.save_model(ensemble, tmp_path / f"ensemble{ending}")
    loaded = saved_by_function(ensemble, tmp_path)  # Keras's own writer would lose the optimizer
    assert type(loaded.optimizer) is keras.optimizers.Adam
    assert int(loaded.optimizer.iterations) == 1


def test_a_folder_is_never_written_into(tmp_path):
    ensemble = trained(0)
    ensemble.save(tmp_path / "unzipped", zipped=False)
    for name in ("unzipped", "folder.keras"):
        with pytest.raises(InputError, match="new folder for zipped=False"):
            ensemble.save(tmp_path / name, zipped=False)
    keras.models.load_model(tmp_path / "unzipped")


def test_a_signature_and_silence_can_be_given_by_place(tmp_path):
    ensemble = trained(0)
    signature = [keras.InputSpec(shape=(3, 8, 8, 3), dtype="float32")]
    ensemble.export(tmp_path / "exported", "tf_saved_model", False, signature)
    images, _ = examples(3)
    loaded = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(
        loaded.serve(images).numpy(), ensemble.predict(images, verbose=0), atol=1e-6
    )


@keras.saving.register_keras_serializable(package="tests")
class Plain(parl_tf.PARL):
    """A method of somebody's that takes only what it names."""

    def __init__(self, members, num_layers=1, name=None, **_):
        super().__init__(members, num_layers=num_layers, name=name)


@keras.saving.register_keras_serializable(package="tests")
class Named(parl_tf.Ensemble):
    """A method of somebody's that takes no other options."""

    def __init__(self, members, seed=0, name=None):
        super().__init__(members, seed=seed, name=name)

    def get_config(self):
        config = super().get_config()
        return {key: config[key] for key in ("members", "seed", "name")}


@pytest.mark.parametrize("method", [Plain, Named])
def test_a_method_with_a_signature_of_its_own_is_loaded(method, tmp_path):
    ensemble = method([residual_network(seed) for seed in range(2)])
    ensemble.save(tmp_path / "own.keras")
    loaded = keras.models.load_model(tmp_path / "own.keras")
    assert type(loaded) is method
    for ours, theirs in zip(loaded.get_weights(), ensemble.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
