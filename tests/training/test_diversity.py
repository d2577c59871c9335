import keras
import numpy as np
import pytest
from harness.marks import slow_except
from harness.networks import examples, logits_loss, plain_network, residual_network

import parl_tf
from parl_tf.errors import InputError
from parl_tf.graphs.exposure import layer_outputs
from parl_tf.graphs.input_gradients import layer_gradient_cosines, loss_gradient_cosines
from parl_tf.training.diagnostics import DiversityDiagnostics


def linear(seed):
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((8, 8, 3))
    return keras.Model(pixels, keras.layers.Dense(4)(keras.layers.Flatten()(pixels)))


def test_loss_gradient_cosines_against_gradients_by_hand():
    members = [linear(seed) for seed in range(3)]
    images, labels = examples(5)
    gradients = []
    for member in members:
        kernel, bias = member.get_weights()
        logits = images.reshape(5, -1).astype("float64") @ kernel + bias
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        gradient = (probabilities - np.eye(4)[labels]) @ kernel.T
        gradients.append(gradient / np.linalg.norm(gradient, axis=1, keepdims=True))
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.stack([(gradients[i] * gradients[j]).sum(axis=1) for i, j in pairs], axis=1)
    found = loss_gradient_cosines(members, images, labels)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_layer_gradient_cosines_are_those_that_parl_penalises():
    members = [residual_network(seed) for seed in range(3)]
    images, labels = examples(6)
    layers_of = [keras.Model(m.inputs, layer_outputs(m, 2)) for m in members]
    found = layer_gradient_cosines(layers_of, images)
    assert found.shape == (2, 6, 3)
    parl = parl_tf.PARL(members, num_layers=2)
    parl.compile(loss=logits_loss(), jit_compile=False)
    logs = parl.evaluate(images, labels, batch_size=6, verbose=0, return_dict=True)
    by_layer = np.mean(np.sum(found, axis=2), axis=1)
    assert by_layer == pytest.approx([logs["penalty_1"], logs["penalty_2"]], abs=1e-5)


@pytest.mark.parametrize("method", slow_except([parl_tf.Ensemble, parl_tf.ADP], parl_tf.Ensemble))
def test_every_epoch_reports_both_whatever_the_method(method):
    images, labels = examples(9)
    ensemble = method([residual_network(seed) for seed in range(3)])
    ensemble.compile(optimizer="sgd", loss=logits_loss(), jit_compile=False)
    diagnostics = DiversityDiagnostics(images, labels, num_layers=2, batch_size=4)
    history = ensemble.fit(images, labels, epochs=2, callbacks=[diagnostics], verbose=0).history
    cosines = loss_gradient_cosines(ensemble.members, images, labels)
    assert history["gradient_cosine"][1] == pytest.approx(float(np.mean(cosines)), abs=1e-5)
    layers_of = [keras.Model(m.inputs, layer_outputs(m, 2)) for m in ensemble.members]
    penalty = np.mean(np.sum(layer_gradient_cosines(layers_of, images), axis=(0, 2)))
    assert history["parl_penalty"][1] == pytest.approx(penalty, abs=1e-4)
    assert history["parl_penalty"][0] != history["parl_penalty"][1]


def test_refuses_what_cannot_be_measured():
    images, labels = examples(4)
    with pytest.raises(InputError, match="4 integer labels"):
        DiversityDiagnostics(images, labels[:3])
    diagnostics = DiversityDiagnostics(images, labels)
    with pytest.raises(InputError, match="num_layers from 1 to 2.*Received: 7"):
        diagnostics.set_model(parl_tf.Ensemble([plain_network(seed) for seed in range(2)]))
    with pytest.raises(InputError, match="Expected an Ensemble"):
        diagnostics.set_model(plain_network(0))
