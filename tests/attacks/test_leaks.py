"""A long series of attacks keeps nothing of the models that it is done with."""

import gc
import weakref

import pytest
from harness.networks import examples, plain_network, residual_network

import parl_tf
from parl_tf.data.examples import Split


def attacked(model, attacks):
    images, labels = examples(4)
    parl_tf.evaluate_robustness(
        {"model": model}, attacks=attacks, epsilons=[0.05, 0.1], data=Split(images, labels)
    )


@pytest.mark.slow
def test_models_and_graphs_are_gone_after_their_attacks():
    attacks = [
        parl_tf.FGSM(),
        parl_tf.PGD(num_steps=2, restarts=2),
        parl_tf.MIM(num_steps=2),
        parl_tf.MDI2FGSM(num_steps=2),
        parl_tf.UniformNoise(),
    ]
    alive, objects = [], []
    for seed in range(7):
        ensemble = parl_tf.Ensemble([plain_network(seed), residual_network(seed)])
        attacked(ensemble, attacks)
        alive.append(weakref.ref(ensemble))
        del ensemble
        gc.collect()
        objects.append(len(gc.get_objects()))
    assert not any(ensemble() for ensemble in alive)
    # A graph that stayed would be thousands of objects; a weak reference is one.
    assert objects[-1] - objects[2] < 100
