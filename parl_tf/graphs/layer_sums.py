"""Tensors that are summed and differentiated instead of layers' outputs."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from parl_tf.graphs.exposure import convolution_inputs, layer_outputs, main_convolutions
from parl_tf.graphs.folding import is_plain_convolution


class LayerSums:
    """For each compared layer, a tensor whose sum is the layer's summed output up to a constant.

    The gradient of a convolution's summed output with respect to its own input is the same for
    every example. So a raw output is replaced by that gradient, computed once from the kernel,
    times the input: backpropagation then skips its first convolution for the whole batch.

    Args:
        model: As for `expose_layers`.
        num_layers: As for `expose_layers`.
        tap: As for `expose_layers`, or one for each layer.

    Attributes:
        sources: Symbolic tensors of the model's graph, one a layer, from which the tensors are
            computed.

    Raises:
        InputError: What `expose_layers` refuses.
    """

    def __init__(self, model: keras.Model, num_layers: int, *, tap: str | Sequence[str]) -> None:
        self.sources = layer_outputs(model, num_layers, tap=tap)
        self._convolutions: list[keras.Layer | None] = [None] * num_layers
        taps = [tap] * num_layers if isinstance(tap, str) else tap
        inputs = convolution_inputs(model, num_layers)
        for index, layer in enumerate(main_convolutions(model, num_layers)):
            if taps[index] == "convolution" and is_plain_convolution(layer):
                self.sources[index], self._convolutions[index] = inputs[index], layer

    def __call__(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        """The tensors (batch, ...), from the values of `sources`."""
        return [
            value if convolution is None else _times_summed_kernel(convolution, value)
            for convolution, value in zip(self._convolutions, values, strict=True)
        ]


def _times_summed_kernel(convolution: keras.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """A convolution's inputs, times the gradient of its summed output with respect to them."""
    inputs = tf.cast(inputs, convolution.compute_dtype)
    kernel = tf.cast(tf.convert_to_tensor(convolution.kernel), convolution.compute_dtype)
    example = tf.zeros_like(inputs[:1])
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(example)
        output = convolution.convolution_op(example, kernel)
    return inputs * tape.gradient(output, example)
