"""ResNet20's convolutions one by one: oneDNN's kernels and Eigen's, float32 and bfloat16."""

import itertools
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import timing

# (height and width of the input, channels, filters, kernel size, stride)
_SHAPES = (
    (32, 3, 16, 3, 1),
    (32, 16, 16, 3, 1),
    (32, 16, 32, 3, 2),
    (32, 16, 32, 1, 2),
    (16, 32, 32, 3, 1),
    (16, 32, 64, 3, 2),
    (16, 32, 64, 1, 2),
    (8, 64, 64, 3, 1),
)
_DIRECTIONS = ("forward", "to the input", "to the kernel")
_SETTINGS = {
    "oneDNN, float32": ("1", "float32"),
    "oneDNN, bfloat16": ("1", "bfloat16"),
    "Eigen, float32": ("0", "float32"),
    "Eigen, bfloat16": ("0", "bfloat16"),
}
_CALLS = 5


def measure(batch_sizes: list[int], rounds: int) -> Iterator[dict[str, Any]]:
    """A row for each convolution at every batch size: milliseconds in each setting.

    What kernels TensorFlow uses is decided when it starts, so each setting has a process of its
    own, and they run in turn.
    """
    for batch_size in batch_sizes:
        found: dict[str, list[list[float | None]]] = {name: [] for name in _SETTINGS}
        for _ in range(rounds):
            for name, setting in _SETTINGS.items():
                found[name].append(timing.in_fresh_process(_milliseconds, batch_size, *setting))
        names = itertools.product(_SHAPES, _DIRECTIONS)
        for index, ((size, channels, filters, kernel, stride), direction) in enumerate(names):
            yield {
                "convolution": f"{kernel}x{kernel}, stride {stride}, {channels} to {filters}",
                "input": f"{batch_size}x{size}x{size}x{channels}",
                "direction": direction,
                **{
                    f"{name}, ms": _median([each[index] for each in runs])
                    for name, runs in found.items()
                },
            }


def _median(milliseconds: list[float | None]) -> float | None:
    known = [each for each in milliseconds if each is not None]
    return round(statistics.median(known), 2) if known else None


def _milliseconds(batch_size: int, onednn: str, dtype: str) -> list[float | None]:
    """The median time of every shape in every direction; None where there is no kernel."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = onednn  # of this process alone
    import tensorflow as tf

    times: list[float | None] = []
    for size, channels, filters, kernel, stride in _SHAPES:
        images = tf.cast(tf.random.normal((batch_size, size, size, channels)), dtype)
        weights = tf.cast(tf.random.normal((kernel, kernel, channels, filters)), dtype)
        ends = (batch_size, size // stride, size // stride, filters)
        back = tf.cast(tf.random.normal(ends), dtype)
        how: dict[str, Any] = {"strides": [1, stride, stride, 1], "padding": "SAME"}
        calls = (
            lambda images=images, weights=weights, how=how: tf.raw_ops.Conv2D(
                input=images, filter=weights, **how
            ),
            lambda images=images, weights=weights, back=back, how=how: (
                tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=images.shape, filter=weights, out_backprop=back, **how
                )
            ),
            lambda images=images, weights=weights, back=back, how=how: (
                tf.raw_ops.Conv2DBackpropFilter(
                    input=images, filter_sizes=weights.shape, out_backprop=back, **how
                )
            ),
        )
        times += [_time(tf.function(call)) for call in calls]
    return times


def _time(call: Any) -> float | None:
    import tensorflow as tf

    try:
        for _ in range(3):
            call()
    except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
        return None
    seconds = []
    for _ in range(_CALLS):
        start = time.perf_counter()
        for _ in range(4):
            float(tf.cast(call()[0, 0, 0, 0], "float32"))
        seconds.append((time.perf_counter() - start) / 4)
    return 1000 * statistics.median(seconds)
