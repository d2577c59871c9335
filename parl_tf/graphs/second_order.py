"""Networks whose gradients can be differentiated."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from parl_tf.graphs.flattening import flattened, graph_part
from parl_tf.graphs.nodes import run_graph, runs_its_graph
from parl_tf.graphs.substitutes import substitute


class DifferentiableNetwork(keras.Layer):
    """A network whose gradients can be differentiated, and whose normalisation is fused.

    It shares a model's layers and is called like it. Values, first derivatives, state updates and
    losses are the same up to rounding; see `substitute` for what it computes differently. Layers
    and models inside it that have a `call` of their own are called unchanged, as are their own
    layers; `check_layers` refuses them where that is wrong.

    Args:
        model: Functional (or built sequential) Keras model. Nested functional models are
            flattened.
        outputs: Symbolic tensors of the graph of `flattened(model)`; None for its own outputs.
    """

    def __init__(
        self, model: keras.Model, outputs: Sequence[keras.KerasTensor] | None = None
    ) -> None:
        super().__init__(dtype=model.dtype_policy, autocast=False)
        outputs = flattened(model).outputs if outputs is None else outputs
        self.network = graph_part(model.inputs, list(outputs))
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> Any:
        """The outputs in order, or the only output itself."""
        run = functools.partial(_called, training)
        outputs = run_graph(self.network, inputs, run)
        return outputs[0] if len(outputs) == 1 else outputs


def differentiable(model: keras.Model) -> keras.Layer:
    """A `DifferentiableNetwork`, or the model itself if it has a `call` of its own."""
    return DifferentiableNetwork(model) if runs_its_graph(model) else model


def _called(training: bool | None, operation: Any) -> Callable[..., Any]:
    """The function to call in place of an operation of a graph, with a model's `training`."""
    function = substitute(operation)
    if training is None or not isinstance(operation, keras.Layer):
        return function
    return lambda *arguments, **options: function(*arguments, **{**options, "training": training})
