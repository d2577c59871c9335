"""What this package takes for a classifier of images, and for the members of an ensemble."""

from typing import Any

import keras

from parl_tf.errors import InputError


def check_logits_classifier(model: object) -> None:
    """Raises unless `model` is a functional Keras classifier of images that returns logits.

    Raises:
        InputError: Not a Keras model with a graph, several inputs or outputs, an output that is
            not (batch, classes), or one that went through softmax or sigmoid.
    """
    if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
        raise InputError(
            "Expected a functional Keras model, or a sequential one that is built. "
            f"Received: {model!r}."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        raise InputError(
            f"Expected a model with one input and one output (batch, classes). Received: inputs "
            f"{[tensor.shape for tensor in model.inputs]}, outputs "
            f"{[tensor.shape for tensor in model.outputs]} of model {model.name!r}."
        )
    if model.outputs[0].shape[-1] is None or model.outputs[0].shape[-1] < 2:
        raise InputError(
            f"Expected a model of at least two classes. Received: {model.outputs[0].shape[-1]} of "
            f"model {model.name!r}."
        )
    last = _last_operation(model)
    activation = getattr(last, "activation", None)
    # As a layer, as an operation of keras.ops, or fused into the last layer.
    if type(last).__name__ in ("Softmax", "Sigmoid") or activation in (
        keras.activations.softmax,
        keras.activations.sigmoid,
    ):
        raise InputError(
            f"Model {model.name!r} returns probabilities, from which a saturated prediction has "
            "no gradient. Expected logits: end it with Dense(classes) without an activation."
        )


def check_members(members: list) -> None:
    """Raises unless `members` are classifiers that can be trained and asked together.

    Raises:
        InputError: Fewer than two, one more than once, weights shared, other inputs or classes
            than the first, or not classifiers that return logits.
    """
    if len(members) < 2:
        raise InputError(f"Expected at least two members. Received: {len(members)}.")
    if len({id(member) for member in members}) < len(members):
        raise InputError("Expected different members. Received: the same object more than once.")
    for member in members:
        check_logits_classifier(member)
    variables = [id(variable) for member in members for variable in member.trainable_variables]
    if len(set(variables)) < len(variables):
        raise InputError("Expected members with weights of their own. Received: shared weights.")
    shapes = [(member.input_shape, member.output_shape) for member in members]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError(
            "Expected members of one input shape and number of classes. "
            f"Received (input, output): {shapes}."
        )


def _last_operation(model: keras.Model) -> Any:
    """The last operation that decides what kind of values a model returns."""
    transparent = (keras.layers.Reshape, keras.layers.Dropout, keras.layers.Flatten)
    tensor = model.outputs[0]
    while True:
        history = tensor._keras_history
        operation = history.operation
        if isinstance(operation, keras.Model):
            tensor = operation.outputs[0]
        elif isinstance(operation, transparent):
            tensor = operation._inbound_nodes[history.node_index].input_tensors[0]
        else:
            return operation
