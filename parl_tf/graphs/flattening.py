"""Nested networks as one flat graph of layers."""

import contextlib
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from parl_tf.graphs.nodes import nodes_behind, runs_its_graph

_lock = threading.RLock()
# Flattening adds nodes to shared layers, so it is done once for each graph. A sequential model may
# change its graph, so the output that the graph had is stored with the flat model.
_flat_models: "weakref.WeakKeyDictionary[keras.Model, tuple[keras.KerasTensor, keras.Model]]"
_flat_models = weakref.WeakKeyDictionary()


def flattened(model: keras.Model) -> keras.Model:
    """A functional model without nested models, which shares a model's layers and inputs.

    Each functional or built sequential model in the graph is replaced by its operations, to any
    depth, called as it calls them: they get the `training` that it was called with. A `training`
    passed to the flat model takes precedence, as in Keras. Values, gradients and state updates are
    those of the model itself; the order of calls may differ only if a stateful layer is called
    several times on independent inputs. A model with a `call` of its own is kept whole.

    Args:
        model: Functional (or built sequential) Keras model.

    Returns:
        A functional model of the same input tensors; `model` itself if nothing is nested in it.
    """
    with _lock:
        graph_output, flat = _flat_models.get(model, (None, model))
        if graph_output is model.outputs[0]:
            return flat
        outputs = _called_on(model, model.inputs, None)
        if all(ours is own for ours, own in zip(outputs, model.outputs, strict=True)):
            return model
        flat = graph_part(_unpacked(model.inputs), _unpacked(outputs), name=model.name)
        _flat_models[model] = model.outputs[0], flat
        return flat


def graph_part(inputs: Any, outputs: Any, name: str | None = None) -> keras.Model:
    """`keras.Model(inputs, outputs)`, even if layers from different models share a name."""
    tensors = keras.tree.flatten((inputs, outputs))
    operations = list(dict.fromkeys(node.operation for node in nodes_behind(tensors).values()))
    with _distinct_names(operations):
        return keras.Model(inputs, outputs, name=name)


def _called_on(
    model: keras.Model, inputs: Sequence[keras.KerasTensor], training: bool | None
) -> list[keras.KerasTensor]:
    """The outputs of a model's graph on symbolic inputs, nested models expanded.

    Operations whose inputs are unchanged are not called again.
    """
    values = {id(own): given for own, given in zip(model.inputs, inputs, strict=True)}
    for node in nodes_behind(model.outputs).values():
        if all(id(tensor) in values for tensor in node.output_tensors):
            continue
        args, kwargs = node.arguments.fill_in(values)
        if training is not None and isinstance(node.operation, keras.Layer):
            kwargs["training"] = training  # as Keras does, overriding the call's own value
        given = _given(node.operation, args, kwargs)
        if given is not None:
            outputs = _called_on(node.operation, given, kwargs.get("training"))
        elif training is None and all(values[id(t)] is t for t in node.input_tensors):
            outputs = node.output_tensors
        else:
            outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        values.update(zip(map(id, node.output_tensors), outputs, strict=True))
    return [values[id(tensor)] for tensor in model.outputs]


def _given(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[keras.KerasTensor] | None:
    """The inputs of a call of a nested model, in its types and ranks; None if it is kept whole."""
    if not runs_its_graph(operation):
        return None
    # Keras records a mask for each input, even if there is none.
    options = {
        name
        for name, value in kwargs.items()
        if any(part is not None for part in keras.tree.flatten(value))
    }
    given = args[0] if len(args) == 1 else kwargs.get("inputs")
    if len(args) > 1 or options - ({"training"} if args else {"training", "inputs"}):
        return None
    if isinstance(given, dict) and len(operation.inputs) == len(given):
        by_name = {tensor.name for tensor in operation.inputs} == set(given)
        given = [given[tensor.name] for tensor in operation.inputs] if by_name else given
    tensors = keras.tree.flatten(given)
    symbolic = all(isinstance(tensor, keras.KerasTensor) for tensor in tensors)
    if not symbolic or len(tensors) != len(operation.inputs):
        return None
    return [_as_taken(*pair) for pair in zip(tensors, operation.inputs, strict=True)]


def _as_taken(tensor: keras.KerasTensor, taken: keras.KerasTensor) -> keras.KerasTensor:
    """A tensor converted to the type and rank of a model's input, as Keras does."""
    if tensor.dtype != taken.dtype:
        tensor = keras.ops.cast(tensor, taken.dtype)
    if len(tensor.shape) == len(taken.shape) + 1:
        return keras.ops.squeeze(tensor, axis=-1)
    if len(tensor.shape) == len(taken.shape) - 1:
        return keras.ops.expand_dims(tensor, axis=-1)
    return tensor


def _unpacked(tensors: Sequence[keras.KerasTensor]) -> Any:
    """The tensor itself if there is only one."""
    return tensors[0] if len(tensors) == 1 else list(tensors)


@contextlib.contextmanager
def _distinct_names(operations: Sequence[Any]) -> Iterator[None]:
    """Temporarily gives operations distinct names, which Keras requires within a model."""
    names = {operation.name for operation in operations}
    met: set[str] = set()
    own_names = []
    with _lock:
        try:
            for operation in operations:
                if operation.name in met:
                    own_names.append((operation, operation.name))
                    number = 1
                    while f"{operation.name}_{number}" in names:
                        number += 1
                    operation.name = f"{operation.name}_{number}"
                    names.add(operation.name)
                met.add(operation.name)
            yield
        finally:
            for operation, name in own_names:
                operation.name = name
