import keras
import numpy as np
import pytest
from harness.networks import examples, plain_network, residual_network

import parl_tf
from parl_tf.errors import InputError, MissingFileError
from parl_tf.training.config import Start
from parl_tf.training.warm_start import begin_from


def ensemble_of(*networks):
    return parl_tf.Ensemble(networks)


@pytest.fixture
def saved(tmp_path):
    ensemble = ensemble_of(residual_network(0), residual_network(1))
    ensemble.save(tmp_path / "start.keras")
    return ensemble, tmp_path / "start.keras"


def test_members_begin_with_the_weights_and_statistics_of_the_start(saved):
    start, path = saved
    ensemble = parl_tf.DVERGE([residual_network(2), residual_network(3)])
    images, _ = examples(3)
    assert not np.allclose(ensemble(images), start(images))
    assert begin_from(ensemble, path) == Start(run=str(path))
    np.testing.assert_array_equal(ensemble(images), start(images))


def batch_normalised(seed, synchronized):
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(synchronized=synchronized)(pixels)
    return keras.Model(pixels, keras.layers.Dense(4)(keras.layers.Flatten()(x)))


def test_what_was_trained_on_one_device_is_a_start_on_several(tmp_path):
    path = tmp_path / "start.keras"
    start = ensemble_of(*(batch_normalised(seed, False) for seed in (0, 1)))
    start.save(path)
    ensemble = ensemble_of(*(batch_normalised(seed, True) for seed in (2, 3)))
    begin_from(ensemble, path)
    images, _ = examples(3)
    np.testing.assert_array_equal(ensemble(images), start(images))


def adapted(seed, scale):
    layer = keras.layers.Normalization()
    layer.adapt(scale * examples(8, seed)[0])
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((8, 8, 3))
    return keras.Model(pixels, keras.layers.Dense(4)(keras.layers.Flatten()(layer(pixels))))


def test_an_adapted_normalisation_begins_with_the_statistics_of_the_start(tmp_path):
    path = tmp_path / "start.keras"
    start = ensemble_of(*(adapted(seed, 0.5) for seed in (0, 1)))
    start.save(path)
    ensemble = ensemble_of(*(adapted(seed, 0.1) for seed in (2, 3)))
    begin_from(ensemble, path)
    images, _ = examples(3)
    np.testing.assert_array_equal(ensemble(images), start(images))


def normalised(seed, mean):
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Normalization(mean=mean, variance=1.0)(pixels)
    return keras.Model(pixels, keras.layers.Dense(4)(keras.layers.Flatten()(x)))


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([residual_network(seed) for seed in (2, 3, 4)], "Expected 3 members.*Received: 2 members"),
        ([residual_network(seed, num_classes=5) for seed in (2, 3)], "Expected 5 classes.*4"),
        ([residual_network(seed, filters=3) for seed in (2, 3)], "of the same network"),
        ([plain_network(seed) for seed in (2, 3)], "of the same network"),
    ],
)
def test_refuses_another_number_of_members_or_classes_or_network(saved, networks, message):
    ensemble = ensemble_of(*networks)
    before = [member.get_weights() for member in ensemble.members]
    with pytest.raises(InputError, match=message):
        begin_from(ensemble, saved[1])
    for member, weights in zip(ensemble.members, before, strict=True):
        for found, expected in zip(member.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(found, expected)


def leaky(seed):
    return parl_tf.resnet20(4, input_shape=(8, 8, 3), activation="leaky_relu", seed=seed)


def relu(seed):
    return parl_tf.resnet20(4, input_shape=(8, 8, 3), seed=seed)


def test_a_refused_start_changes_no_member(tmp_path):
    path = tmp_path / "start.keras"
    ensemble_of(plain_network(0), residual_network(1)).save(path)
    ensemble = ensemble_of(plain_network(2), plain_network(3))
    before = ensemble.members[0].get_weights()
    with pytest.raises(InputError, match="of the same network"):
        begin_from(ensemble, path)
    for found, expected in zip(ensemble.members[0].get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def tanh(seed):
    return plain_network(seed, activation="tanh")


@pytest.mark.parametrize(
    ("make", "make_other"),
    [
        (leaky, relu),
        (plain_network, tanh),
        (lambda s: normalised(s, 0.1), lambda s: normalised(s, 0.2)),
    ],
)
def test_refuses_networks_of_equal_weights_that_are_other_functions(tmp_path, make, make_other):
    path = tmp_path / "start.keras"
    ensemble_of(make(0), make(1)).save(path)
    with pytest.raises(InputError, match="of the same network, input and normalisation"):
        begin_from(ensemble_of(make_other(0), make_other(1)), path)


def test_refuses_one_classifier_and_what_is_not_there(tmp_path):
    ensemble = ensemble_of(plain_network(0), plain_network(1))
    plain_network(2).save(tmp_path / "single.keras")
    with pytest.raises(InputError, match="Received: a single classifier"):
        begin_from(ensemble, tmp_path / "single.keras")
    with pytest.raises(MissingFileError):
        begin_from(ensemble, tmp_path / "nothing")
