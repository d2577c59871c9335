"""What an attack's step cannot do without: its convolutions, forward and back to the pixels."""

from collections.abc import Callable, Iterator
from typing import Any

import crafting
import timing

_STEPS = 10


def measure(batch_sizes: list[int], rounds: int) -> Iterator[dict[str, Any]]:
    """A row a batch size: all convolutions of an ensemble, beside a step of BIM on it."""
    import parl_tf

    ensemble, images, labels = crafting.model()
    crafter = parl_tf.BIM(num_steps=_STEPS).prepare(ensemble)
    for size in batch_sizes:
        calls = {
            "floor": _convolutions(ensemble.members, size),
            "attack": lambda size=size: crafter(
                images[:size], labels[:size], epsilon=crafting.EPSILON, batch_size=size
            ),
        }
        seconds = timing.alternate(calls, rounds, warmup=2)
        floor = timing.summary(seconds["floor"])["median_ms"]
        step = timing.summary(seconds["attack"])["median_ms"] / _STEPS
        yield {
            "batch": size,
            "convolutions_ms": floor,
            "bim_step_ms": round(step, 2),
            "times_faster_at_most": round(step / floor, 2),
        }


def _convolutions(members: list[Any], batch_size: int) -> Callable[[], Any]:
    """Each convolution of the members on an input of its shape, and its input gradient."""
    import keras
    import tensorflow as tf

    found = [
        layer for member in members for layer in member.layers if type(layer) is keras.layers.Conv2D
    ]
    inputs = [tf.random.normal((batch_size, *layer.input.shape[1:])) for layer in found]

    @tf.function
    def everything(inputs):
        used = []
        for layer, pixels in zip(found, inputs, strict=True):
            output = tf.nn.conv2d(pixels, layer.kernel, layer.strides, layer.padding.upper())
            back = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=pixels.shape,
                filter=layer.kernel,
                out_backprop=output,
                strides=[1, *layer.strides, 1],
                padding=layer.padding.upper(),
            )
            used.append(back[0, 0, 0, 0])
        return tf.add_n(used)

    return lambda: float(everything(inputs))
