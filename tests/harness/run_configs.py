"""Configurations of runs for the tests."""

import dataclasses

from parl_tf.training.config import RunConfig, TrainingData
from parl_tf.training.recipe import Recipe

CIFAR10 = TrainingData(
    name="cifar10", fingerprint="da7a", train_examples=45_000, validation_examples=5_000, seed=0
)


def run_config(method="unprotected", seed=0, *, recipe=None, dataset=None, arguments=None, **also):
    """A configuration; `recipe`, `dataset` and `arguments` are changes to the defaults."""
    values = {
        "method": method,
        "seed": seed,
        "num_members": 3,
        "arguments": {"seed": seed, "adversarial_training": None, **(arguments or {})},
        "recipe": Recipe(**{"network": "resnet20", "kernel_penalty": 1e-4, **(recipe or {})}),
        "dataset": dataclasses.replace(CIFAR10, **{"seed": seed, **(dataset or {})}),
    }
    return RunConfig(**values | also)
