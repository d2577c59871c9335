"""What Keras's saving and exporting need to know of a model that is made of others."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import tensorflow as tf

from parl_tf.errors import InputError


class PortableModel(keras.Model):
    """A model whose parts are built before it is ever called, saved and exported as if it were.

    A subclass sets `built` and has `image_shape`, (height, width, channels).
    """

    image_shape: Any
    former_arguments: ClassVar[Mapping[str, Any]] = {}
    """What was done before an argument was there: its value where a configuration lacks it."""

    def build_optimizer(self) -> None:
        """Makes the optimizer's variables, unless they are there."""
        if getattr(self, "optimizer", None) is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the graph of `train_step`, after the optimizer's variables.

        A graph that makes variables while it is traced is traced a second time, and tracing takes
        longer than many steps.

        Raises:
            InputError: There is nothing to train.
        """
        if not self.trainable_variables:
            raise InputError(
                "Expected weights to train. Received: members that are frozen, all of their layers "
                "having trainable=False. Set trainable=True where you want to train, and compile "
                "again. What is not trained can be evaluated and attacked as it is."
            )
        self.build_optimizer()
        return super().make_train_function(force)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Keras's, which under a strategy takes a batch away to build a model from.

        The parts are built; only metrics given to `compile` may need it, if `build_metrics` was
        not called.
        """
        if self._compile_metrics is not None and not self._compile_metrics.built:
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def build_metrics(self, batch: Any) -> None:
        """Makes the variables of metrics given to `compile`, where Keras would take a batch for it.

        Args:
            batch: Shapes and types of a batch, as a data set has them in `element_spec`.
        """
        if self._compile_metrics is not None and not self._compile_metrics.built:
            images, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
            images = keras.tree.flatten(images)[0]
            with self.distribute_strategy.scope():
                self._symbolic_build(data_batch=(images, labels, weights))

    def save(self, filepath: str | os.PathLike, *arguments: Any, **options: Any) -> None:
        """Keras's `save`, also of an optimizer that has not made a step yet."""
        self.build_optimizer()
        super().save(filepath, *arguments, **options)

    def load_weights(self, filepath: str | os.PathLike, *arguments: Any, **options: Any) -> None:
        """Keras's `load_weights`, with the optimizer's variables where the file has them."""
        self.build_optimizer()
        super().load_weights(filepath, *arguments, **options)

    def get_compile_config(self) -> dict[str, Any]:
        """Keras's, but whether by XLA is for the machine to decide that a model is loaded on."""
        config = super().get_compile_config()
        return {**config, "jit_compile": "auto"} if config.get("jit_compile") else config

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        *,
        input_signature: Any = None,
        **options: Any,
    ) -> None:
        """Keras's `export`, for batches of any size unless a signature says otherwise."""
        if input_signature is None:
            shape = (None, *self.image_shape)
            input_signature = [keras.InputSpec(shape=shape, dtype="float32")]
        self(tf.zeros((1, *self.image_shape)))  # Keras refuses a model that was never called
        super().export(filepath, format, input_signature=input_signature, **options)
