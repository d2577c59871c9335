"""Networks in inference mode, with batch normalisation folded into convolutions."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from parl_tf.graphs.flattening import flattened, graph_part
from parl_tf.graphs.nodes import nodes_behind, origin, run_graph, runs_its_graph
from parl_tf.graphs.substitutes import substitute

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)

FoldedWeights = Mapping[tuple[keras.Layer, keras.Layer], tuple[tf.Tensor, tf.Tensor]]
"""For each convolution followed by a normalisation: the kernel (size ..., channels, filters) and
the offset (filters,) of the two combined, in the convolution's type."""

# A convolution, its input and its output; kept by the id of the output, which stays alive with it.
_Convolved = tuple[keras.Layer, tf.Tensor, tf.Tensor]


class FoldedNetwork:
    """A network in inference mode, at about the cost of its convolutions.

    Batch normalisation behind a convolution becomes part of its kernel. Outputs and their
    derivatives are those of a `DifferentiableNetwork` in inference mode up to rounding, which in
    half precision includes that of the folded weights. Called eagerly, such a convolution is
    computed a second time.

    Args:
        model: Functional Keras model with one input, or a part of one. Nested functional models
            are folded too.
        outputs: Symbolic tensors of the graph of `flattened(model)`; None for its own outputs.
    """

    def __init__(
        self, model: keras.Model, outputs: Sequence[keras.KerasTensor] | None = None
    ) -> None:
        outputs = flattened(model).outputs if outputs is None else outputs
        self._model = graph_part(model.inputs, list(outputs))
        self._pairs = _normalized_convolutions(self._model)

    def weights(self) -> FoldedWeights:
        """The current folded weights, for several calls to share, as in a loop."""
        return {pair: _folded(*pair) for pair in self._pairs}

    def __call__(self, inputs: tf.Tensor, weights: FoldedWeights | None = None) -> list[tf.Tensor]:
        """Runs the network.

        Args:
            inputs: Images (batch, height, width, channels), pixels in [0, 1].
            weights: What `weights` returned; None for the current ones.

        Returns:
            The outputs, in their order.
        """
        weights = self.weights() if weights is None else weights
        convolved: dict[int, _Convolved] = {}

        def run(operation: Any) -> Callable[..., Any]:
            return functools.partial(_run, operation, convolved, weights)

        return run_graph(self._model, inputs, run)


def folded_if_possible(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """A classifier in inference mode, folded unless it has a `call` of its own.

    Args:
        model: Any Keras classifier with one input and one output.

    Returns:
        Its function from images (batch, height, width, channels) to logits (batch, classes). It
        holds the folded weights, tensors of the graph it was made in, which loops there share.
    """
    if not runs_its_graph(model):
        return functools.partial(model, training=False)
    network = FoldedNetwork(model)
    weights = network.weights()
    return lambda images: network(images, weights)[0]


def is_plain_convolution(operation: Any) -> bool:
    """Whether a layer is one of Keras's own convolutions and computes nothing else."""
    return (
        type(operation) in _CONVOLUTIONS
        and operation.activation is keras.activations.linear
        and operation.data_format == "channels_last"
        and operation.padding in ("same", "valid")  # "causal" is padded in the call itself
        and not operation.quantization_mode
    )


def _normalized_convolutions(model: keras.Model) -> list[tuple[keras.Layer, keras.Layer]]:
    """Pairs of a convolution and the batch normalisation that follows it."""
    pairs = []
    for node in nodes_behind(model.outputs).values():
        for tensor in node.input_tensors:
            convolution = origin(tensor).node.operation
            normalizes = _normalizes_channels(node.operation, len(tensor.shape) - 1)
            if normalizes and is_plain_convolution(convolution):
                pairs.append((convolution, node.operation))
    return list(dict.fromkeys(pairs))


def _normalizes_channels(operation: Any, last_axis: int) -> bool:
    """Whether an operation is a batch normalisation over a convolution's filters."""
    normalizes = type(operation) is keras.layers.BatchNormalization
    return normalizes and operation.axis in (-1, last_axis)


def _run(
    operation: Any,
    convolved: dict[int, _Convolved],
    weights: FoldedWeights,
    *inputs: Any,
    **options: Any,
) -> Any:
    """The output of a layer or operation in inference mode."""
    if isinstance(operation, keras.Layer):
        options["training"] = False  # for nested layers too, even if it takes no `training`
    given = {name for name, value in options.items() if value is not None} - {"training"}
    if len(inputs) != 1 or given:
        return substitute(operation)(*inputs, **options)
    if is_plain_convolution(operation):
        output = operation(*inputs)
        convolved[id(output)] = (operation, *inputs, output)
        return output
    if id(inputs[0]) in convolved:
        convolution, before, _ = convolved[id(inputs[0])]
        if (convolution, operation) in weights:
            # The convolution's own output, if nothing else reads it, is not computed in a graph.
            return _convolve(convolution, operation, before, *weights[convolution, operation])
    return substitute(operation)(*inputs, **options)


def _folded(convolution: keras.Layer, norm: keras.Layer) -> tuple[tf.Tensor, tf.Tensor]:
    """Kernel and offset of one convolution equal to a convolution and its normalisation."""
    wide = keras.backend.result_type(convolution.compute_dtype, norm.compute_dtype, "float32")
    mean, variance = (tf.cast(v, wide) for v in (norm.moving_mean, norm.moving_variance))
    scale = tf.math.rsqrt(variance + norm.epsilon)
    if norm.scale:
        scale *= tf.cast(norm.gamma, wide)
    shift = tf.cast(convolution.bias, wide) - mean if convolution.use_bias else -mean
    offset = scale * shift
    if norm.center:
        offset += tf.cast(norm.beta, wide)
    dtype = convolution.compute_dtype
    return tf.cast(tf.cast(convolution.kernel, wide) * scale, dtype), tf.cast(offset, dtype)


def _convolve(
    convolution: keras.Layer,
    norm: keras.Layer,
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    offset: tf.Tensor,
) -> tf.Tensor:
    """Applies a convolution and the normalisation behind it, using their folded weights."""
    output = convolution.convolution_op(tf.cast(inputs, convolution.compute_dtype), kernel)
    return tf.cast(tf.nn.bias_add(output, offset), norm.compute_dtype)
