"""Training steps of every method beside the unprotected one's."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import timing

# (name, method, arguments, arguments of the networks); with {K} once for each number of layers.
_CANDIDATES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("unprotected", "unprotected", {}, {}),
    ("adversarial training", "unprotected", {"adversarial_training": {}}, {}),
    ("ADP", "adp", {}, {}),
    ("GAL", "gal", {}, {"activation": "leaky_relu"}),
    ("GAL, ReLU", "gal", {}, {}),
    ("DVERGE", "dverge", {}, {}),
    ("TRS", "trs", {}, {}),
    ("TRS, half of the images moved", "trs", {"move_half": True}, {}),
    ("Guardian/{K}", "guardian", {}, {"stem_batch_norm": False}),
    ("PARL/{K}", "parl", {}, {}),
    ("PARL/{K}, raw outputs", "parl", {"tap": "convolution"}, {}),
    ("PARL/{K}, batch statistics", "parl", {"penalty_batch_norm": "batch"}, {}),
    (
        "PARL/{K}, raw outputs, batch statistics",
        "parl",
        {"tap": "convolution", "penalty_batch_norm": "batch"},
        {},
    ),
]


def names(layers: list[int]) -> list[str]:
    """Names of all candidates, for these numbers of compared layers."""
    return [name for name, *_ in _expanded(layers)]


def _expanded(layers: list[int]) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    for name, method, arguments, network in _CANDIDATES:
        if "{K}" not in name:
            yield name, method, arguments, network
            continue
        for number in layers:
            yield name.format(K=number), method, {"num_layers": number, **arguments}, network


def ensemble_and_batch(
    name: str, layers: list[int], batch_size: int, xla: bool, members: int = 3
) -> tuple[Any, Any, Any]:
    """An ensemble of ResNet20s as the tools compile it, random images and labels."""
    import keras
    import numpy as np
    import tensorflow as tf

    import parl_tf
    from parl_tf.defences import METHODS

    found = {each: rest for each, *rest in _expanded(layers)}
    method, arguments, network = found[name]
    ensemble = METHODS[method](
        [parl_tf.resnet20(10, seed=member, **network) for member in range(members)], **arguments
    )
    ensemble.compile(
        optimizer=parl_tf.FusedAdam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=xla,
    )
    ensemble.optimizer.build(ensemble.trainable_variables)
    draw = np.random.default_rng(0)
    images = tf.constant(draw.random((batch_size, 32, 32, 3), dtype=np.float32))
    return ensemble, images, tf.constant(draw.integers(0, 10, batch_size))


def step(
    name: str, layers: list[int], batch_size: int, xla: bool, members: int = 3
) -> Callable[[], None]:
    """One training step, as `fit` makes it."""
    import tensorflow as tf

    ensemble, images, labels = ensemble_and_batch(name, layers, batch_size, xla, members)
    batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    ensemble.make_train_function()

    def one_step() -> None:
        float(ensemble.train_function(batches)["loss"])

    return one_step


def _beside_unprotected(
    name: str, layers: list[int], batch_size: int, xla: bool, rounds: int
) -> tuple[float, float, dict[str, list[float]]]:
    """Seconds to the end of the first step, MiB after three, and seconds by candidate."""
    steps = {name: step(name, layers, batch_size, xla)}
    start = time.perf_counter()
    steps[name]()
    first = time.perf_counter() - start
    for _ in range(2):
        steps[name]()
    memory = timing.peak_memory()
    if "unprotected" not in steps:
        steps["unprotected"] = step("unprotected", layers, batch_size, xla)
    return first, memory, timing.alternate(steps, rounds, warmup=2)


def measure(
    layers: list[int], batch_sizes: list[int], xla: list[bool], rounds: int, only: list[str]
) -> Iterator[dict[str, Any]]:
    """A row for every candidate at every batch size, with and without XLA.

    Each has a process, with the unprotected step: many models in one process slow each other down,
    by what they leave the allocator.
    """
    chosen = [name for name in names(layers) if name == "unprotected" or timing.wanted(name, only)]
    for compiled, batch_size, name in itertools.product(xla, batch_sizes, chosen):
        first, memory, seconds = timing.in_fresh_process(
            _beside_unprotected, name, layers, batch_size, compiled, rounds
        )
        row = timing.summary(seconds[name])
        times, spread = timing.ratio(seconds[name], seconds["unprotected"])
        yield {
            "method": name,
            "batch": batch_size,
            "XLA": compiled,
            **row,
            "images_per_s": round(1000 * batch_size / row["median_ms"], 1),
            "times_unprotected": times,
            "spread_of_times": spread,
            "times_by_least": round(min(seconds[name]) / min(seconds["unprotected"]), 2),
            "first_step_s": round(first, 1),
            "peak_MiB": round(memory),
        }
