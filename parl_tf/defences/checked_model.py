"""A model whose batches are checked before they reach a graph, and cast to what it takes."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from parl_tf.data.batch_checks import BatchCheck, input_errors
from parl_tf.data.checked_inputs import checked_input
from parl_tf.defences.portable import PortableModel


class CheckedModel(PortableModel):
    """A model of members that refuses invalid pixels and labels.

    `fit`, `evaluate`, `train_on_batch` and `test_on_batch` are Keras's. Each raises `InputError`
    for images or labels that are of another kind, pixels outside [0, 1], labels outside of the
    classes, and values that are not finite, whether XLA compiles the step or not. No batch is
    read for that which Keras would not have read.
    """

    uses_partners: ClassVar[bool] = False
    """Whether `craft` can take a second, independent batch of images beside the first."""

    members: Sequence[keras.Model]
    num_classes: Any
    inputs_checked = False
    """Whether the batches of the last `fit` were checked on their way."""
    _validating: tuple[int, int] | None = None

    def fit(self, *arguments: Any, **options: Any) -> keras.callbacks.History:
        """Keras's `fit`.

        Raises:
            InputError: Images, labels or sample weights that cannot be used.
        """
        given = _named(keras.Model.fit, self, arguments, options)
        self.inputs_checked = self._check_data(given)
        validation = given.get("validation_data")
        if validation is not None:
            parts = keras.utils.unpack_x_y_sample_weight(validation)
            named = dict(zip(("x", "y", "sample_weight"), parts, strict=True))
            self._check_data(named)
            given["validation_data"] = tuple(named.values())
            # Not themselves: Keras tracks what a model holds.
            self._validating = (id(named["x"]), id(named["y"]))
        try:
            with input_errors():
                return super().fit(**given)
        finally:
            self._validating = None

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        """Keras's `evaluate`.

        Raises:
            InputError: Images, labels or sample weights that cannot be used.
        """
        given = _named(keras.Model.evaluate, self, arguments, options)
        if (id(given.get("x")), id(given.get("y"))) != self._validating:
            self._check_data(given)
        with input_errors():
            return super().evaluate(**given)

    def train_on_batch(self, *arguments: Any, **options: Any) -> Any:
        """Keras's `train_on_batch`.

        Raises:
            InputError: Images, labels or sample weights that cannot be used.
        """
        return self._on_batch("train_on_batch", arguments, options)

    def test_on_batch(self, *arguments: Any, **options: Any) -> Any:
        """Keras's `test_on_batch`.

        Raises:
            InputError: Images, labels or sample weights that cannot be used.
        """
        return self._on_batch("test_on_batch", arguments, options)

    def _on_batch(self, name: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Keras's method of that name, on a batch that is checked before."""
        given = _named(getattr(keras.Model, name), self, arguments, options)
        self._check().check(tuple(given.get(part) for part in ("x", "y", "sample_weight")))
        return getattr(super(), name)(**given)

    def _check(self) -> BatchCheck:
        """The check of this model's batches."""
        ignored = getattr(self.loss, "ignore_class", None)
        return BatchCheck(self.num_classes, self.uses_partners, ignored)

    def _check_data(self, given: dict[str, Any]) -> bool:
        """Puts what checks its batches in the place of `x`; whether they are checked."""
        names = ("x", "y", "sample_weight")
        parts = [given.get(name) for name in names]
        given["x"], is_checked = checked_input(self._check(), *parts)
        return is_checked

    def _unpack(self, data: Any) -> tuple[tf.Tensor, tf.Tensor, Any, tf.Tensor | None]:
        """Images, labels, sample weights and partners of a batch, as they enter a step.

        The graph has the checks too, for batches that reach it on another way.
        """
        check = self._check()
        check.assert_valid(data)
        parts, labels, sample_weight = check.unpack(data)
        images, *partners = [tf.cast(part, self._image_type()) for part in parts]
        return images, tf.convert_to_tensor(labels), sample_weight, next(iter(partners), None)

    def _image_type(self) -> tf.DType:
        """The type that images are cast to: the widest that a member takes."""
        types = {tf.as_dtype(member.inputs[0].dtype) for member in self.members}
        return max(types | {tf.float32}, key=lambda dtype: dtype.size)


def _named(
    method: Callable, model: keras.Model, arguments: Sequence[Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by their names."""
    bound = inspect.signature(method).bind(model, *arguments, **options)
    named = dict(bound.arguments)
    del named["self"]
    others = named.pop("kwargs", {})
    return {**named, **others}
