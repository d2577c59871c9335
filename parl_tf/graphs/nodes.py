"""Walks and runs functional Keras graphs through Keras's private interface.

Nothing else uses it, except the `keras.Model` in `parl_tf.defences.portable`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf


class Node(Protocol):
    """One call of an operation in a graph, as Keras records it.

    Attributes:
        operation: The layer or operation.
        input_tensors: The symbolic tensors that it was called on.
        output_tensors: Those that it returned.
        arguments: Its arguments; `fill_in` replaces the symbolic tensors in them by id.
    """

    operation: Any
    input_tensors: list[keras.KerasTensor]
    output_tensors: list[keras.KerasTensor]
    arguments: Any


class Origin(NamedTuple):
    """Where a symbolic tensor comes from.

    Attributes:
        node: The call that returned it.
        output: Which of the call's outputs it is.
    """

    node: Node
    output: int


def origin(tensor: keras.KerasTensor) -> Origin:
    """The call that returned a symbolic tensor."""
    history = tensor._keras_history
    return Origin(history.operation._inbound_nodes[history.node_index], history.tensor_index)


def nodes_behind(tensors: Sequence[keras.KerasTensor]) -> dict[int, Node]:
    """The nodes of a functional graph that symbolic tensors come from.

    Returns:
        The nodes by the id of the tensor that each returned, in topological order.
    """
    nodes: dict[int, Node] = {}
    stack = [(tensor, False) for tensor in reversed(tensors)]
    while stack:
        tensor, done = stack.pop()
        if id(tensor) in nodes:
            continue
        node = origin(tensor).node
        if done:
            nodes[id(tensor)] = node
        else:
            stack.append((tensor, True))
            stack.extend((parent, False) for parent in reversed(node.input_tensors))
    return nodes


def layers_in(layer: keras.Layer) -> list[keras.Layer]:
    """All layers inside a layer or model, to any depth."""
    return list(layer._flatten_layers(include_self=False))


def runs_its_graph(model: object) -> bool:
    """Whether calling `model` runs the graph of a Keras model and does nothing else."""
    if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
        return False
    call = getattr(model.call, "__func__", None)
    inherited = call in (_functional_class().call, keras.Sequential.call)
    return inherited and type(model).__call__ is keras.Layer.__call__


@functools.cache
def _functional_class() -> Any:
    """The class of functional models."""
    pixels = keras.Input((1,))
    return type(keras.Model(pixels, keras.layers.Identity()(pixels)))


def as_taken(model: keras.Model, inputs: Any) -> list[tf.Tensor]:
    """Inputs converted to the types and ranks of a functional model's inputs, in their order.

    Tensors that need no conversion are returned themselves.
    """
    return model._standardize_inputs(inputs)


def run_graph(
    model: keras.Model, inputs: Any, run: Callable[[Any], Callable[..., Any]]
) -> list[tf.Tensor]:
    """Runs a functional model's graph as Keras does, with operations replaced.

    Args:
        model: Functional Keras model. Nested models count as operations.
        inputs: Its inputs.
        run: From an operation of the graph to the function to call in its place, with the
            operation's arguments.

    Returns:
        The model's outputs, in their order.
    """
    return keras.tree.flatten(model._run_through_graph(as_taken(model, inputs), run))


def copy_weights(source: keras.Layer, target: keras.Layer) -> None:
    """Gives a layer or model the weights of another one of the same structure.

    `set_weights` alone is not enough for an adapted `Normalization`, which computes with values
    derived earlier from its weights.
    """
    target.set_weights(source.get_weights())
    for layer in (target, *layers_in(target)):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
