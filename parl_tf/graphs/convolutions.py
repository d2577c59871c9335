"""Which layers of a network are convolutions, and which hide convolutions inside."""

from collections.abc import Iterable
from typing import Any

import keras

from parl_tf.errors import InputError
from parl_tf.graphs.flattening import flattened
from parl_tf.graphs.nodes import Node, layers_in, nodes_behind

CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def convolves(node: Node) -> bool:
    """Whether a node is a convolution, or a layer with convolutions inside."""
    return isinstance(node.operation, CONVOLUTIONS) or _hides_convolutions(node.operation)


def _hides_convolutions(operation: Any) -> bool:
    """Whether a layer that is not a convolution contains some, or kernels shaped like theirs."""
    if not isinstance(operation, keras.Layer) or isinstance(operation, CONVOLUTIONS):
        return False
    own = type(operation).__module__.split(".")[0] != "keras"
    return any(isinstance(layer, CONVOLUTIONS) for layer in layers_in(operation)) or (
        own and any(len(weight.shape) >= 4 for weight in operation.weights)
    )


def check_open(model: keras.Model, nodes: Iterable[Node]) -> None:
    """Raises InputError if one of a flat graph's nodes is a layer with convolutions inside.

    Args:
        model: The model that the graph belongs to, for the message.
        nodes: Nodes of the graph of `flattened(model)`.
    """
    for operation in (node.operation for node in nodes):
        if _hides_convolutions(operation):
            raise InputError(
                "Expected convolutions that are layers of the model, or of functional models "
                f"inside it. Received: {operation.name!r}, a {type(operation).__name__} in model "
                f"{model.name!r}, which calls its convolutions itself. Build it flat: make the "
                "part a functional model, base = keras.Model(pixels, features), and instead of "
                "x = base(x) use x = base.output, with base.input as the model's input."
            )


def check_convolutions_are_open(model: keras.Model) -> None:
    """Raises InputError if a functional model has convolutions hidden in a layer's `call`."""
    check_open(model, nodes_behind(flattened(model).outputs).values())
