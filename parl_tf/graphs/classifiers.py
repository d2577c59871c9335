"""Checks of classifiers of images, and of the members of an ensemble."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from parl_tf.errors import InputError
from parl_tf.graphs.nodes import origin

_ROUNDING = 1e-2
"""Relative tolerance of sums of probabilities, wide enough for bfloat16."""
_PROBE_SIZE = 64
"""Height and width of a probe image if a model does not fix them."""


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
        raise InputError(_probabilities_message(f"Model {model.name!r}"))


def check_logits(answers: Any, who: str = "The model") -> None:
    """Raises if a classifier's outputs are probabilities, even scaled or negated.

    Rows of probabilities have values of one sign and the same sum for every image. Logits do only
    if they are the same for all images, as with a head initialised with zeros; rows that do not
    vary count as probabilities if they sum to 1 or -1. Log-probabilities, which are logits, have
    other sums. So do sigmoids: if the graph does not show them, they pass for logits.

    Args:
        answers: Array (images, classes), for a few different images. Not checked if values are not
            finite.
        who: What the message calls the model.

    Raises:
        InputError: They are probabilities.
    """
    answers = np.asarray(answers, "float64")
    if not np.isfinite(answers).all() or answers.min() < 0 < answers.max():
        return
    sign, what = (-1, "positive") if answers.min() < 0 else (1, "negative")
    answers = sign * answers
    sums = answers.sum(axis=1)
    level = sums.mean()
    if not level or np.ptp(sums) > _ROUNDING * level:
        return
    variation = np.ptp(answers, axis=0).max()
    # Logits that hardly vary have almost the same sum; but then their sums vary as much as they do.
    varies = variation > max(10 * np.ptp(sums), 1e-6 * level)
    if varies or abs(level - 1) <= max(1e-3, 2 * np.ptp(sums)):
        raise InputError(
            _probabilities_message(who, f": no value is {what} and rows sum to {sign * level:.3g}")
        )


def check_answers(model: keras.Model) -> None:
    """Raises if a Keras classifier of images returns probabilities for a few probe images.

    It is called in inference mode, and its state does not change.

    Raises:
        InputError: It returns probabilities; see `check_logits`.
    """
    count, *shape = model.input_shape
    shape = [size or _PROBE_SIZE for size in shape]
    noise = np.random.default_rng(0).uniform(size=(count or 6, *shape))
    noise[1::3] *= 0.1  # dark ones, and bright ones
    noise[2::3] = 1 - 0.1 * noise[2::3]
    with keras.StatelessScope():
        answers = model(keras.ops.convert_to_tensor(noise, "float32"), training=False)
    check_logits(
        keras.ops.convert_to_numpy(keras.ops.cast(answers, "float32")), f"Model {model.name!r}"
    )


def _probabilities_message(who: str, why: str = "") -> str:
    return (
        f"{who} returns probabilities{why}. Saturated probabilities have no gradient to train or "
        "attack with. Expected logits: end the model with Dense(classes), without softmax, sigmoid "
        "or anything after it."
    )


def check_members(members: list) -> None:
    """Raises unless `members` are classifiers that can be trained, evaluated and saved together.

    Raises:
        InputError: Fewer than two members, the same one twice, shared variables (trainable or
            not), input shapes or numbers of classes that differ, or models that are not classifiers
            returning logits.
    """
    if len(members) < 2:
        raise InputError(f"Expected at least two members. Received: {len(members)}.")
    if len({id(member) for member in members}) < len(members):
        raise InputError("Expected different members. Received: the same object more than once.")
    for member in members:
        check_logits_classifier(member)
    _check_nothing_shared(members)
    shapes = [(member.input_shape, member.output_shape) for member in members]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError(
            "Expected members of one input shape and number of classes. "
            f"Received (input, output): {shapes}."
        )
    for member in members:
        check_answers(member)


def _check_nothing_shared(members: Sequence[keras.Model]) -> None:
    """Raises if two members share a variable, which Keras would save with the first one only."""
    owners: dict[int, int] = {}
    shared = []
    for index, member in enumerate(members):
        for variable in member.variables:
            if owners.setdefault(id(variable), index) != index:
                shared.append(variable.path)
    if shared:
        names = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
        raise InputError(
            "Expected members with weights of their own, including those that are not trained. "
            f"Received: shared weights, {names}. Give each member a copy of the layer or model "
            "that they share: x = copy.deepcopy(backbone)(x), with Python's copy."
        )


def _last_operation(model: keras.Model) -> Any:
    """The last operation that determines what kind of values a model returns."""
    layers = keras.layers
    transparent = (
        layers.Reshape,
        layers.Dropout,
        layers.Flatten,
        layers.Identity,
        layers.Rescaling,
    )
    tensor = model.outputs[0]
    while True:
        node, output = origin(tensor)
        operation = node.operation
        if isinstance(operation, keras.Model) and getattr(operation, "outputs", None):
            tensor = operation.outputs[output]
        elif isinstance(operation, transparent) or _is_linear_activation(operation):
            tensor = node.input_tensors[0]
        else:
            return operation


def _is_linear_activation(operation: Any) -> bool:
    """Whether an operation is an activation layer that computes the identity."""
    linear = keras.activations.linear
    return isinstance(operation, keras.layers.Activation) and operation.activation is linear
