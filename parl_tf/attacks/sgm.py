"""SGM: the skip gradient method, an attack for transfer from residual networks."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import tensorflow as tf

from parl_tf.attacks.iterative import IterativeAttack
from parl_tf.attacks.members import Logits
from parl_tf.errors import InputError
from parl_tf.graphs.convolutions import CONVOLUTIONS, check_convolutions_are_open
from parl_tf.graphs.flattening import flattened
from parl_tf.graphs.nodes import copy_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGM(IterativeAttack):
    """Skip gradient method: PGD whose gradients prefer shortcuts to residual branches.

    Attributes:
        residual_factor: Factor, in (0, 1], on the gradient that enters a residual branch, once per
            block; with 1 the attack is PGD.
        restarts: Number of random starts. The other attributes are those of `IterativeAttack`.

    Raises:
        InputError: A `residual_factor` or `restarts` outside these ranges, what
            `IterativeAttack` refuses, or a model without residual blocks.

    Source: Wu et al. 2020, arXiv 2002.05990, equation 5; their factor for ResNets. Their code
    scales the gradient at the activations inside a branch instead, and so at stems as well.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> pixels = keras.Input((8, 8, 3))
        >>> branch = keras.layers.Conv2D(3, 3, padding="same", activation="relu")(pixels)
        >>> block = keras.layers.Add()([pixels, branch])
        >>> model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(block))
        >>> images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
        >>> attack = parl_tf.SGM(num_steps=5)
        >>> adversarial = attack(model, images, np.array([0, 1]), epsilon=0.1)
        >>> bool(0.09 < abs(adversarial - images).max() < 0.1001)
        True
    """

    name: ClassVar[str] = "sgm"
    random_start: ClassVar[bool] = True
    residual_factor: float = 0.2
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.residual_factor <= 1:
            raise InputError(
                f"Expected residual_factor in (0, 1]. Received: {self.residual_factor}."
            )

    def view(self, member: keras.Model | Logits) -> Logits:
        """A copy of a residual network with the gradient into each branch scaled."""
        return scale_residual_gradients(member, self.residual_factor)


def scale_residual_gradients(member: Any, factor: float) -> keras.Model:
    """Copies a residual network, with the gradient into each residual branch scaled.

    Args:
        member: Functional Keras model whose blocks end in an addition (`keras.layers.Add` or
            `keras.ops.add`) of a shortcut and a branch with more convolutions behind it, in
            nested functional models too.
        factor: Factor on the gradient where it enters a branch.

    Returns:
        A model with the same outputs and scaled gradients; its weights are copies.

    Raises:
        InputError: A model that is not functional, has no such addition, or has convolutions in
            a layer or model with a `call` of its own.
    """
    functional = isinstance(member, keras.Model) and getattr(member, "outputs", None)
    flat = flattened(member) if functional else member
    if not functional or isinstance(flat, keras.Sequential):
        raise InputError(f"Expected a functional Keras model with shortcuts. Received: {member!r}.")
    check_convolutions_are_open(flat)
    depths: dict[int, int] = {}  # most convolutions on a path from the input, by tensor
    kept: list[keras.KerasTensor] = []  # so that no id is reused
    additions = 0

    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        nonlocal additions
        inputs = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
        sides = [depths.get(id(tensor), 0) for tensor in inputs]
        if type(operation).__name__ == "Add" and len(set(sides)) > 1:
            additions += 1
            branch = inputs[sides.index(max(sides))]
            scaled = _ScaledGradient(factor)(branch)
            args, kwargs = keras.tree.map_structure(
                lambda x: scaled if x is branch else x, (args, kwargs)
            )
        output = operation(*args, **kwargs)
        for tensor in keras.tree.flatten(output):
            depths[id(tensor)] = max(sides, default=0) + isinstance(operation, CONVOLUTIONS)
            kept.append(tensor)
        return output

    copies: list[tuple[Any, Any]] = []

    def copy(operation: keras.Operation) -> keras.Operation:
        config = operation.get_config()
        if "name" in config:  # nested models may reuse a name, which Keras refuses within a model
            config["name"] += f".{len(copies)}"
        copies.append((operation, type(operation).from_config(config)))
        return copies[-1][1]

    copied = keras.models.clone_model(flat, clone_function=copy, call_function=call)
    if not additions:
        raise InputError(
            f"Expected a network with residual blocks. Received: {member.name!r}, which never adds "
            "a shortcut to a branch with more convolutions."
        )
    for operation, its_copy in copies:
        if getattr(operation, "weights", None):
            copy_weights(operation, its_copy)
    return copied


class _ScaledGradient(keras.layers.Layer):
    """The identity, whose gradient is scaled."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the inputs."""

        @tf.custom_gradient
        def scaled(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            return tf.identity(x), lambda upstream: self._factor * upstream

        return scaled(inputs)
