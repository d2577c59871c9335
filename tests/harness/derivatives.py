"""Numerical derivatives of a training step."""

import keras
import numpy as np
import pytest

from harness.networks import logits_loss


def assert_step_follows_the_loss(
    ensemble, images, labels, rel=1e-6, step=1e-5, absolute=None, validates=True
):
    """Compares the gradient that a step uses with central differences of the evaluated loss.

    For ensembles in float64 whose networks are smooth and the same in training and in inference.
    If not `validates`, the loss is that of training steps.
    """
    ensemble.compile(optimizer=keras.optimizers.SGD(1.0), loss=logits_loss(), run_eagerly=True)

    def loss():
        if not validates:
            ensemble.reset_metrics()
            return ensemble.train_on_batch(images, labels, return_dict=True)["loss"]
        logs = ensemble.evaluate(
            images, labels, batch_size=len(images), verbose=0, return_dict=True
        )
        return logs["loss"]

    variables = ensemble.trainable_variables
    before = [variable.numpy() for variable in variables]
    ensemble.train_on_batch(images, labels)
    # A step of plain SGD at rate 1 is the gradient.
    gradient = [b - variable.numpy() for b, variable in zip(before, variables, strict=True)]
    generator = np.random.default_rng(0)
    for _ in range(3):
        direction = [generator.normal(size=b.shape) for b in before]
        values = []
        for sign in (1, -1):
            for variable, b, d in zip(variables, before, direction, strict=True):
                variable.assign(b + sign * step * d)
            values.append(loss())
        measured = (values[0] - values[1]) / (2 * step)
        derivative = sum(np.sum(g * d) for g, d in zip(gradient, direction, strict=True))
        assert measured == pytest.approx(derivative, rel=rel, abs=absolute)
