"""A check that the gradients in a method's terms can be differentiated, layer by layer.

A term that contains gradients trains through second derivatives. If a layer's are missing or wrong,
in TensorFlow or in the layer's own code, the term still has a value, but trains nothing or the
wrong thing.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from parl_tf.errors import InputError
from parl_tf.graphs.directional import judged
from parl_tf.graphs.flattening import graph_part
from parl_tf.graphs.nodes import as_taken, layers_in, run_graph, runs_its_graph
from parl_tf.graphs.single_layers import LayerCall
from parl_tf.graphs.substitutes import needs_substitute

_BATCH = 3
_UNKNOWN = 32  # height and width of images, if a member accepts any

_COMMON = {"name", *dir(keras.Layer)}  # attributes that all layers have

# Keys of layers found correct after rebuilding, so that later ensembles need not check them again.
_right: set[Any] = set()


class Differentiated(NamedTuple):
    """Which gradients of a member a method uses.

    Attributes:
        outputs: Symbolic tensors of the member's graph, up to which gradients go.
        weights: Keras variables with respect to which they are taken; None for the images.
        training: Whether they are taken in training mode.
    """

    outputs: Sequence[keras.KerasTensor]
    weights: Sequence[Any] | None = None
    training: bool = True


def whole_network(member: keras.Model) -> Differentiated:
    """Gradients of a member's logits with respect to the images, in training mode."""
    return Differentiated(member.outputs)


def check_layers(
    members: Sequence[keras.Model],
    differentiated: Callable[[keras.Model], Differentiated],
    method: str,
) -> None:
    """Raises unless each layer that a method's gradients go through has a second derivative.

    Each kind of layer, of one configuration and on inputs of one shape, is rebuilt in float64 on
    small inputs, and the derivatives of its gradient, as a `DifferentiableNetwork` computes them,
    are compared with finite differences; those in its own precision too. A layer that cannot be
    rebuilt from its configuration is judged as it is. Where differences cannot measure a layer, as
    at kinks or with random draws, only layers that call normalisation or resizing themselves are
    refused. Layers inside nested functional models are checked one by one.

    The random states of the process and the members do not change.

    Args:
        members: Functional classifiers.
        differentiated: Which gradients of a member the method uses.
        method: The method's name, for the message.

    Raises:
        InputError: A layer whose second derivative is missing or wrong.
    """
    state, legacy_state = random.getstate(), np.random.get_state()
    try:
        checked: set[Any] = set()
        for member in members:
            for name, call in _calls(member, differentiated(member)):
                key, lasting = _key(call)
                if key in checked or key in _right:
                    continue
                verdict = judged(call)
                hidden = _hidden(call.operation)
                if verdict.fault or (hidden and not verdict.found_right):
                    fault = verdict.fault or "cannot be measured"
                    raise InputError(_message(method, member, name, call.operation, fault))
                checked.add(key)
                if lasting and verdict.rebuilt:
                    _right.add(key)
    finally:
        random.setstate(state)
        np.random.set_state(legacy_state)


def _hidden(operation: Any) -> list[keras.Layer]:
    """Layers that a layer calls itself, and whose second derivatives are then wrong."""
    inside = layers_in(operation) if isinstance(operation, keras.Layer) else []
    return [layer for layer in inside if needs_substitute(layer)]


def _message(method: str, member: keras.Model, name: str, operation: Any, fault: str) -> str:
    """The message: the fault, and how to fix it."""
    hidden = ", ".join(f"{type(each).__name__} {each.name!r}" for each in _hidden(operation))
    way_out = (
        f"build the part that calls {hidden} as a functional model, keras.Model(inputs, outputs), "
        "so that its layers are in the member's graph"
        if hidden
        else "resize, augment or transform images before the model; normalise, activate and resize "
        "with Keras's own layers in its graph; write the layer with other operations"
    )
    return (
        f"{method} needs second derivatives, and that of layer {name!r} "
        f"({type(operation).__name__}) of member {member.name!r} {fault}. Expected layers whose "
        f"gradients can be differentiated: {way_out}; or pass check_second_derivatives=False to "
        "train anyway."
    )


def _key(call: LayerCall) -> tuple[Any, bool]:
    """A key shared by calls with the same derivatives, and whether it outlives the layer."""
    operation = call.operation
    arguments = keras.tree.map_structure(
        lambda value: (value.shape, value.dtype) if tf.is_tensor(value) else repr(value),
        (call.arguments, call.options),
    )
    rest = (repr(arguments), call.inputs, call.sources, call.training)
    if isinstance(operation, keras.layers.Lambda):
        own = (operation.function, repr(operation.arguments), operation.dtype_policy.name)
        return (type(operation), own, *rest), True
    try:
        config = operation.get_config()
    except Exception:  # a user's layer may raise anything
        return (id(operation), *rest), False
    kept = {
        key: value
        for key, value in config.items()
        if key != "name" and not key.endswith(("_initializer", "_regularizer"))
    }
    # These may have been set after the layer was made.
    attributes = frozenset(
        (key, value)
        for key, value in vars(operation).items()
        if not key.startswith("_")
        and key not in _COMMON
        and (isinstance(value, bool | int | float | str) or hasattr(value, "__name__"))
    )
    return (type(operation), repr(kept), attributes, *rest), True


def _calls(member: keras.Model, differentiated: Differentiated) -> Iterator[tuple[str, LayerCall]]:
    """The calls of layers and operations that gradients go through, with the layers' names.

    Found by running the member in inference mode on random images.
    """
    weights = {id(weight) for weight in differentiated.weights or ()}
    found: list[tuple[str, LayerCall]] = []
    reached: dict[int, Any] = {}  # tensors that gradients go through, by id

    def reach(values: Any) -> None:
        reached.update((id(v), v) for v in keras.tree.flatten(values) if _is_float(v))

    def called(operation: Any, path: str, arguments: tuple, options: dict[str, Any]) -> Any:
        if isinstance(operation, keras.Layer):
            # For nested layers too, even if it takes no `training`.
            options = {**options, "training": False}
        flat = keras.tree.flatten((arguments, options))
        inputs = tuple(i for i, value in enumerate(flat) if id(value) in reached)
        trained = operation.trainable_weights if isinstance(operation, keras.Layer) else []
        sources = tuple(i for i, weight in enumerate(trained) if id(weight) in weights)
        outputs = operation(*arguments, **options)
        if inputs or sources:
            reach(outputs)
            training = differentiated.training
            call = LayerCall(operation, arguments, options, inputs, sources, training)
            found.append((path, call))
        return outputs

    def run(network: keras.Model, inputs: Any, path: str) -> Any:
        given = keras.tree.flatten(inputs)
        taken = as_taken(network, inputs)
        for before, after in zip(given, taken, strict=True):
            if id(before) in reached:
                reach(after)

        def step(operation: Any) -> Callable[..., Any]:
            own = f"{path}{operation.name}"

            def call(*arguments: Any, **options: Any) -> Any:
                more = {name for name, value in options.items() if value is not None}
                if len(arguments) == 1 and not more and runs_its_graph(operation):
                    part = graph_part(operation.inputs, operation.outputs)
                    return run(part, arguments[0], f"{own}/")
                return called(operation, own, arguments, options)

            return call

        outputs = run_graph(network, taken, step)
        return outputs[0] if len(outputs) == 1 else outputs

    shape = [_BATCH, *(size or _UNKNOWN for size in member.inputs[0].shape[1:])]
    images = tf.constant(np.random.default_rng(0).uniform(size=shape), member.inputs[0].dtype)
    if differentiated.weights is None:
        reach(images)
    outputs = list(differentiated.outputs)
    if [id(output) for output in outputs] == [id(member.outputs[0])] and not runs_its_graph(member):
        called(member, member.name, (images,), {})
    else:
        run(graph_part(member.inputs, outputs), images, "")
    yield from found


def _is_float(value: Any) -> bool:
    return tf.is_tensor(value) and value.dtype.is_floating
