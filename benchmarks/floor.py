"""What a step of an attack or of training cannot do without: its convolutions."""

import collections
import math
from collections.abc import Callable, Iterator
from typing import Any

import crafting
import steps
import timing

_ATTACK_STEPS = 10
_CONVOLUTIONS = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter")
_LOOPS = ("DVERGE", "TRS", "adversarial training")
"""Their steps convolve in loops, whose rounds a graph does not tell."""


def measure(batch_sizes: list[int], rounds: int) -> Iterator[dict[str, Any]]:
    """A row a batch size: all convolutions of an ensemble, beside a step of BIM on it."""
    import tensorflow as tf

    import parl_tf

    ensemble, images, labels = crafting.model()
    crafter = parl_tf.BIM(num_steps=_ATTACK_STEPS).prepare(ensemble)
    for size in batch_sizes:

        def gradient(images: Any) -> Any:
            return tf.gradients(ensemble(images, training=False), images)[0]

        shape = tf.TensorSpec((size, *images.shape[1:]))
        calls = {
            "floor": _convolutions_of(tf.function(gradient).get_concrete_function(shape).graph)[0],
            "step": lambda size=size: crafter(
                images[:size], labels[:size], epsilon=crafting.EPSILON, batch_size=size
            ),
        }
        seconds = timing.alternate(calls, rounds, warmup=2)
        yield _row(f"bim, a step of {_ATTACK_STEPS}", size, seconds, _ATTACK_STEPS)


def measure_steps(
    layers: list[int], batch_sizes: list[int], rounds: int, only: list[str]
) -> Iterator[dict[str, Any]]:
    """A row for a training step of each method without loops, at every batch size."""
    for name in steps.names(layers):
        if timing.wanted(name, only) and not name.startswith(_LOOPS):
            for size in batch_sizes:
                yield timing.in_fresh_process(_beside_step, name, layers, size, rounds)


def _beside_step(name: str, layers: list[int], batch_size: int, rounds: int) -> dict[str, Any]:
    import tensorflow as tf

    ensemble, images, labels = steps.ensemble_and_batch(name, layers, batch_size, xla=False)
    step = tf.function(lambda: ensemble.train_step((images, labels)))
    convolutions, number = _convolutions_of(step.get_concrete_function().graph)
    calls = {"floor": convolutions, "step": lambda: float(step()["loss"])}
    row = _row(name, batch_size, timing.alternate(calls, rounds, warmup=2), 1)
    return {**row, "convolutions": number}


def _row(
    name: str, batch_size: int, seconds: dict[str, list[float]], num_steps: int
) -> dict[str, Any]:
    floor, step = (timing.summary(seconds[each]) for each in ("floor", "step"))
    return {
        "step": name,
        "batch": batch_size,
        "convolutions_ms": floor["median_ms"],
        "least_of_convolutions_ms": floor["least_ms"],
        "step_ms": round(step["median_ms"] / num_steps, 2),
        "least_of_step_ms": round(step["least_ms"] / num_steps, 2),
        "times_faster_at_most": round(step["median_ms"] / num_steps / floor["median_ms"], 2),
    }


def _convolutions_of(graph: Any) -> tuple[Callable[[], Any], int]:
    """A call of every convolution of a graph, on random numbers, and how many there are.

    None waits for another. No two of a kind and a shape have both operands in common, as TensorFlow
    would compute them once.
    """
    import tensorflow as tf

    alike: dict[Any, list[Any]] = collections.defaultdict(list)
    for operation in _needed(graph):
        if operation.type in _CONVOLUTIONS:
            shapes = [tuple(tensor.shape) for tensor in _operands(operation)]
            alike[operation.type, *shapes].append(operation)
    pools: dict[Any, list[Any]] = collections.defaultdict(list)
    for (_, *shapes), found in alike.items():
        for shape in shapes:
            while len(pools[shape]) < math.ceil(math.sqrt(len(found))):
                pools[shape].append(tf.random.normal(shape))

    @tf.function
    def everything() -> Any:
        used = []
        for (kind, *shapes), found in alike.items():
            each = math.ceil(math.sqrt(len(found)))
            for index, operation in enumerate(found):
                first = pools[shapes[0]][index % each]
                second = pools[shapes[1]][index // each]
                strides, padding = operation.get_attr("strides"), operation.get_attr("padding")
                how = {"strides": strides, "padding": padding.decode()}
                sizes = operation.outputs[0].shape
                if kind == "Conv2D":
                    result = tf.raw_ops.Conv2D(input=first, filter=second, **how)
                elif kind == "Conv2DBackpropInput":
                    result = tf.raw_ops.Conv2DBackpropInput(
                        input_sizes=sizes, filter=first, out_backprop=second, **how
                    )
                else:
                    result = tf.raw_ops.Conv2DBackpropFilter(
                        input=first, filter_sizes=sizes, out_backprop=second, **how
                    )
                used.append(result[0, 0, 0, 0])
        return tf.add_n(used)

    return lambda: float(everything()), sum(map(len, alike.values()))


def _needed(graph: Any) -> Iterator[Any]:
    """The operations that results or writes depend on; TensorFlow traces others and drops them."""
    left = [*(tensor.op for tensor in graph.outputs), *graph.control_outputs]
    seen = set()
    while left:
        operation = left.pop()
        if operation not in seen:
            seen.add(operation)
            yield operation
            left += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]


def _operands(operation: Any) -> list[Any]:
    """The two tensors that a convolution multiplies."""
    first, second, *third = operation.inputs
    if operation.type == "Conv2D":
        return [first, second]
    return [second, *third] if operation.type == "Conv2DBackpropInput" else [first, *third]
