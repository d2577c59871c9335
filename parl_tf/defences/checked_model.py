"""A model that combines its members' predictions, and checks its batches."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from parl_tf.data.batch_checks import BatchCheck, input_errors
from parl_tf.data.checked_inputs import checked_input
from parl_tf.data.examples import check_images
from parl_tf.data.own import images_of
from parl_tf.defences.portable import PortableModel
from parl_tf.graphs.nodes import layers_in
from parl_tf.runtime.replicas import check_distribution
from parl_tf.tensors import Vote, log_mean_probability, majority_vote


class CheckedModel(PortableModel):
    """A model of members that refuses invalid pixels and labels.

    A call returns the logarithm of the members' mean probability. `fit`, `evaluate`,
    `train_on_batch` and `test_on_batch` are Keras's. Each raises `InputError` for images or labels
    of the wrong shape or type, pixels outside [0, 1], labels outside the classes, and values that
    are not finite, whether XLA compiles the step or not. Batches that Keras would not read are not
    read for this.
    """

    uses_partners: ClassVar[bool] = False
    """Whether `craft` can take a second, independent batch of images beside the first."""

    members: Sequence[keras.Model]
    inputs_checked = False
    """Whether the batches of the last `fit` were checked on their way."""
    _validating: tuple[int, int] | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape (height, width, channels) of one image."""
        return tuple(self.members[0].input_shape[1:])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.members[0].output_shape[-1]

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Logarithm of the members' mean probability, (batch, classes)."""
        return log_mean_probability(self.member_logits(inputs, training=training))

    def member_logits(self, inputs: tf.Tensor, training: bool | None = None) -> list[tf.Tensor]:
        """Each member's logits, one tensor (batch, classes) per member."""
        return [member(inputs, training=training) for member in self.members]

    def vote(self, inputs: tf.Tensor) -> Vote:
        """Majority vote of the members on a batch of images, and where it was tied."""
        return majority_vote(self.member_logits(inputs, training=False))

    def predict_classes(self, images: Any, batch_size: int = 250) -> Any:
        """Majority vote of the members on any number of images.

        Args:
            images: Array (n, height, width, channels), pixels in [0, 1], or what `images_of` takes.
            batch_size: Images at a time.

        Returns:
            int64 array (n,), the winning classes.

        Raises:
            InputError: Images outside these values.
        """
        images = check_images(images_of(images))
        if not hasattr(self, "_vote_graph"):
            self._vote_graph = tf.function(self.vote, reduce_retracing=True)
        batches = tf.data.Dataset.from_tensor_slices(images).batch(batch_size)
        return tf.concat([self._vote_graph(batch).labels for batch in batches], axis=0).numpy()

    def named_layers(self) -> list[tuple[str, keras.Layer]]:
        """All members and their layers, each with the name of its member."""
        return [(m.name, layer) for m in self.members for layer in (m, *layers_in(m))]

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called by `fit` at the beginning of each epoch, from 0 to `epochs` - 1."""

    def fit(self, *arguments: Any, **options: Any) -> keras.callbacks.History:
        """Keras's `fit`, which also calls `begin_epoch`.

        Under a strategy it trains as on one device: see `parl_tf.runtime.replicas`.

        Raises:
            InputError: Images, labels or sample weights that cannot be used; a strategy, or
                something in the model, that would train differently than on one device.
        """
        check_distribution(self, self.named_layers())
        given = _named(keras.Model.fit, self, arguments, options)
        if isinstance(given.get("x"), tf.data.Dataset):
            self.build_metrics(given["x"].element_spec)
        with self._hooked(given):
            return self._fit_checked(given)

    @contextlib.contextmanager
    def _hooked(self, given: dict[str, Any]) -> Iterator[None]:
        """Inserts a callback for `begin_epoch` before those given to `fit`."""
        epochs = given.get("epochs", 1)
        hook = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: self.begin_epoch(epoch, epochs)
        )
        callbacks = given.get("callbacks")
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            given["callbacks"] = [hook, callbacks or []]
            yield
            return
        callbacks.callbacks.insert(0, hook)
        try:
            yield
        finally:
            callbacks.callbacks.remove(hook)

    def _fit_checked(self, given: dict[str, Any]) -> keras.callbacks.History:
        """Keras's `fit`, on batches that are checked."""
        self.inputs_checked = self._check_data(given)
        validation = given.get("validation_data")
        if validation is not None:
            parts = keras.utils.unpack_x_y_sample_weight(validation)
            named = dict(zip(("x", "y", "sample_weight"), parts, strict=True))
            self._check_data(named)
            given["validation_data"] = tuple(named.values())
            # Only their ids: Keras tracks the attributes of a model.
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
        """Keras's method of that name, on a batch that is checked first."""
        given = _named(getattr(keras.Model, name), self, arguments, options)
        self._check().check(tuple(given.get(part) for part in ("x", "y", "sample_weight")))
        return getattr(super(), name)(**given)

    def _check(self) -> BatchCheck:
        """The check of this model's batches."""
        ignored = getattr(self.loss, "ignore_class", None)
        return BatchCheck(self.num_classes, self.uses_partners, ignored)

    def _check_data(self, given: dict[str, Any]) -> bool:
        """Replaces `x` by an input with checked batches; returns whether they are checked."""
        names = ("x", "y", "sample_weight")
        parts = [given.get(name) for name in names]
        given["x"], is_checked = checked_input(self._check(), *parts)
        return is_checked

    def _unpack(self, data: Any) -> tuple[tf.Tensor, tf.Tensor, Any, tf.Tensor | None]:
        """Images, labels, sample weights and partners of a batch, as they enter a step.

        The graph has the checks too, for batches that reach it some other way.
        """
        check = self._check()
        check.assert_valid(data)
        parts, labels, sample_weight = check.unpack(data)
        images, *partners = [tf.cast(part, self._image_type()) for part in parts]
        return images, tf.convert_to_tensor(labels), sample_weight, next(iter(partners), None)

    def _image_type(self) -> tf.DType:
        """The type that images are cast to: the widest input type of a member."""
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
