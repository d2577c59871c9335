"""One layer in isolation, called at chosen points, with derivatives of its gradient."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from parl_tf.graphs.nodes import copy_weights
from parl_tf.graphs.rebuilding import default_policy, rebuilt
from parl_tf.graphs.substitutes import substitute


class LayerCall(NamedTuple):
    """One call of a layer or operation.

    Attributes:
        operation: The layer or operation.
        arguments: Its positional arguments.
        options: Its keyword arguments.
        inputs: Indices of the flattened arguments and options that gradients go through.
        sources: Indices of its trainable weights that gradients are taken with respect to.
        training: Whether to call it in training mode.
    """

    operation: Any
    arguments: tuple
    options: dict[str, Any]
    inputs: tuple[int, ...]
    sources: tuple[int, ...]
    training: bool


class Point(NamedTuple):
    """Where a layer's gradient is taken, its upstream gradient, and its factor `along`; float64."""

    inputs: list[np.ndarray]
    weights: list[np.ndarray]
    upstream: list[np.ndarray]
    along: list[np.ndarray]


class Found(NamedTuple):
    """Derivatives at a point, as computed in numbers of `size` bytes.

    `value` is the gradient at the point, times `along`, and `norm` the L2 norm of its terms. The
    derivatives of `value` along changes of the upstream gradient and of everything else are pairs
    of the derivative and its length.
    """

    value: float
    norm: float
    upstream: tuple[float, float]
    rest: tuple[float, float]
    size: int


class SingleLayer:
    """A layer that is called repeatedly, always in the same state.

    Args:
        call: The layer, and how it is called.
        arguments: Its arguments and options, perhaps cropped.
        dtype: The type to compute in; None for the layer's own.
        rebuild: Whether to rebuild the layer from its configuration, with its weights.

    Attributes:
        size: Bytes of the narrowest numbers that it computes with.
        draws: Whether it draws at random in training mode.
        training: Whether it is called in training mode.

    Raises:
        Exception: Whatever the layer raises if it cannot be rebuilt or called this way.
    """

    def __init__(
        self,
        call: LayerCall,
        arguments: tuple[tuple, dict[str, Any]],
        dtype: str | None,
        rebuild: bool = True,
    ) -> None:
        self._original, self._rebuilt = call.operation, rebuild
        self._sources, self._inputs = call.sources, call.inputs
        self._structure = arguments
        self._flat = [
            tf.cast(value, dtype) if dtype and _is_float(value) else value
            for value in keras.tree.flatten(arguments)
        ]
        self._given = [self._flat[index] for index in self._inputs]
        with default_policy(dtype):  # of layers that it makes itself, now or when it is built
            self._operation = rebuilt(self._original, dtype) if rebuild else self._original
            outputs = self._run(self._operation, self._given, training=False)
        if self._operation is not self._original:
            copy_weights(self._original, self._operation)
        self._called = substitute(self._operation)  # which is built now
        layer = isinstance(self._operation, keras.Layer)
        self._trained = self._operation.trainable_weights if layer else []
        variables = self._operation.variables if layer else []
        self._state = [(each.value, tf.convert_to_tensor(each)) for each in variables]
        self.draws = call.training and layer and len(variables) > len(self._operation.weights)
        self.training = call.training
        self._shapes = [output.shape for output in outputs]
        types = [output.dtype for output in (*outputs, *self._given)]
        types += [tf.as_dtype(self._operation.compute_dtype)] if layer else []
        self.size = min(each.size for each in types)

    def sets_weights(self) -> bool:
        """Whether a call in training mode sets trained weights, as spectral normalisation does."""
        if not self._trained:
            return False
        self.restore()
        self._run(self._called, self._given, training=True)
        trained = {id(weight.value) for weight in self._trained}
        moved = [np.any(v != old) for v, old in self._state if id(v) in trained]
        self.restore()
        return any(moved)

    def restore(self) -> None:
        """Restores the layer's variables."""
        for variable, value in self._state:
            variable.assign(value)

    def stands_for_its_layer(self) -> bool:
        """Whether the rebuilt layer has the outputs of the original."""
        if self._operation is self._original:
            return True
        own = self._run(self._called, self._given, training=False)
        expected = self._run(self._original, self._given, training=False)
        return all(
            one.shape == other.shape
            and 0 not in one.shape
            and np.allclose(
                tf.cast(one, "float64"),
                tf.cast(other, "float64"),
                rtol=0.02,
                atol=0.02 * np.max(np.abs(tf.cast(other, "float64")), initial=0),
                equal_nan=True,
            )
            for one, other in zip(own, expected, strict=True)
        )

    def _run(
        self, operation: Callable[..., Any], inputs: Sequence[tf.Tensor], training: bool
    ) -> list[tf.Tensor]:
        """Those of the layer's outputs that are float tensors."""
        flat = list(self._flat)
        for index, value in zip(self._inputs, inputs, strict=True):
            flat[index] = value
        arguments, options = keras.tree.pack_sequence_as(self._structure, flat)
        if isinstance(operation, keras.Layer):
            options = {**options, "training": training}
        outputs = operation(*arguments, **options)
        return [output for output in keras.tree.flatten(outputs) if _is_float(output)]

    def point(self, draw: np.random.Generator, near: bool) -> Point:
        """A point near the given inputs, or with inputs in (0, 1)."""
        inputs = []
        for given, scale in zip(self._given, self._scales(), strict=True):
            if near:
                moved = tf.cast(given, "float64") + 0.1 * scale * draw.normal(size=given.shape)
            else:
                moved = draw.uniform(0.1, 0.9, given.shape)
            inputs.append(np.asarray(moved))
        weights = [np.asarray(weight, "float64") for weight in self._trained]
        if self._rebuilt:  # away from ones and zeros that layers begin with
            weights = [weight + draw.uniform(0.02, 0.1, weight.shape) for weight in weights]
        upstream = [draw.normal(size=shape) for shape in self._shapes]
        shapes = [each.shape for each in (*inputs, *(weights[i] for i in self._sources))]
        return Point(inputs, weights, upstream, [_direction(draw, shape) for shape in shapes])

    def changes(self, draw: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Directions for inputs and weights, of the same scale as these."""
        inputs = [
            scale * _direction(draw, given.shape)
            for scale, given in zip(self._scales(), self._given, strict=True)
        ]
        return inputs, [0.1 * draw.normal(size=weight.shape) for weight in self._trained]

    def _scales(self) -> list[float]:
        deviations = [float(np.std(tf.cast(given, "float64"))) for given in self._given]
        return [deviation or 1.0 for deviation in deviations]

    def product(self, point: Point) -> float:
        """The gradient at a point, times `along`."""
        return float(_sum(self._terms(point, *self._tensors(point))))

    def derivatives(
        self,
        point: Point,
        upstream_change: list[np.ndarray],
        changes: tuple[list[np.ndarray], list[np.ndarray]],
    ) -> Found:
        """`product`, and its derivatives along changes of the upstream gradient and of the rest."""
        inputs, upstream = self._tensors(point)
        with tf.GradientTape() as tape:
            tape.watch([inputs, upstream])
            terms = self._terms(point, inputs, upstream)
            value = _sum(terms)
        trained = [_local(weight) for weight in self._trained]
        found = tape.gradient(value, [*upstream, *inputs, *trained])
        return Found(
            float(value),
            float(_sum(map(tf.square, terms))) ** 0.5,
            _along(found[: len(upstream)], upstream_change),
            _along(found[len(upstream) :], [*changes[0], *changes[1]]),
            self.size,
        )

    def _tensors(self, point: Point) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        inputs = [tf.cast(v, t.dtype) for v, t in zip(point.inputs, self._given, strict=True)]
        return inputs, [tf.constant(each) for each in point.upstream]

    def _terms(
        self, point: Point, inputs: Sequence[tf.Tensor], upstream: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """The terms whose sum is `product`, float64."""
        if self.training:
            self.restore()
        for weight, value in zip(self._trained, point.weights, strict=True):
            weight.value.assign(tf.cast(value, weight.value.dtype))
        sources = [*inputs, *(_local(self._trained[index]) for index in self._sources)]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            outputs = self._run(self._called, inputs, self.training)
        upstream = [
            tf.cast(each, output.dtype) for each, output in zip(upstream, outputs, strict=True)
        ]
        gradients = tape.gradient(outputs, sources, output_gradients=upstream)
        return [
            tf.cast(tf.convert_to_tensor(gradient), "float64") * along
            for gradient, along in zip(gradients, point.along, strict=True)
            if gradient is not None
        ]


def _local(variable: keras.Variable) -> tf.Variable:
    """The variable to differentiate with respect to; under a strategy the first device's."""
    return tf.distribute.get_strategy().experimental_local_results(variable.value)[0]


def _direction(draw: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """A random direction, part of it a shift of all values by one.

    Faults of normalisation show along shifts, of which a direction with zero mean has little.
    """
    return draw.normal(size=shape) + draw.choice([-1, 1])


def _sum(terms: Iterable[tf.Tensor]) -> tf.Tensor:
    return sum(map(tf.reduce_sum, terms), tf.zeros((), "float64"))


def _along(gradients: Sequence[Any], changes: Sequence[np.ndarray]) -> tuple[float, float]:
    """A derivative along a change, and its length in units of the change."""
    derivative, square = 0.0, 0.0
    for gradient, change in zip(gradients, changes, strict=True):
        if gradient is not None:
            gradient = np.asarray(tf.cast(tf.convert_to_tensor(gradient), "float64"))
            derivative += np.sum(gradient * change)
            square += np.sum(gradient**2) * np.mean(change**2)
    return derivative, square**0.5


def _is_float(value: Any) -> bool:
    return tf.is_tensor(value) and value.dtype.is_floating
