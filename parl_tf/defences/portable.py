"""Saving and exporting, with Keras, of a model that consists of other models."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from parl_tf.errors import InputError

_CANNOT_BE_LOADED = (
    "Keras could not load such a file again. Expected a path that ends in .keras, or save_weights "
    "with one that ends in .weights.h5; export writes files for other programs."
)


class PortableModel(keras.Model):
    """A model whose parts are built, which can be saved and exported before it is ever called.

    A subclass sets `built` and has `image_shape`, (height, width, channels).
    """

    image_shape: Any
    former_arguments: ClassVar[Mapping[str, Any]] = {}
    """Values of arguments that were added later, for configurations that lack them."""

    def build_optimizer(self) -> None:
        """Makes the optimizer's variables, unless they exist."""
        if getattr(self, "optimizer", None) is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the graph of `train_step`, after the optimizer's variables.

        A graph that makes variables while it is traced is traced again, and tracing takes longer
        than many steps.

        Raises:
            InputError: There is nothing to train.
        """
        if not self.trainable_variables:
            raise InputError(
                "Expected weights to train. Received: members without trainable weights. Set "
                "trainable=True on the layers that you want to train, and compile again. Frozen "
                "members can be evaluated and attacked as they are."
            )
        self.build_optimizer()
        return super().make_train_function(force)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Keras's, which under a strategy consumes a batch to build a model.

        The parts are built; only metrics given to `compile` may need it, if `build_metrics` was
        not called.
        """
        if self._compile_metrics is not None and not self._compile_metrics.built:
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def build_metrics(self, batch: Any) -> None:
        """Makes the variables of metrics given to `compile`, for which Keras would consume a batch.

        Args:
            batch: Shapes and types of a batch, as a data set has them in `element_spec`.
        """
        if self._compile_metrics is not None and not self._compile_metrics.built:
            images, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
            images = keras.tree.flatten(images)[0]
            with self.distribute_strategy.scope():
                self._symbolic_build(data_batch=(images, labels, weights))

    def update_loss(self, loss: tf.Tensor, count: tf.Tensor) -> None:
        """Updates the metric `loss`, which is a mean over examples.

        Args:
            loss: The loss of a batch, a scalar.
            count: Number of examples in the batch.
        """
        self._loss_tracker.update_state(loss, sample_weight=count)

    def save(
        self,
        filepath: str | os.PathLike,
        overwrite: bool = True,
        zipped: bool | None = None,
        **options: Any,
    ) -> None:
        """Keras's `save`, limited to files that Keras can load again.

        Args:
            filepath: A file that ends in `.keras`; with `zipped=False` a new folder.
            overwrite: Whether to replace a file without asking.
            zipped: False for a folder.
            **options: Keras's.

        Raises:
            InputError: Another ending, or a folder that exists.
        """
        path = str(filepath)
        if zipped is False:
            if path.endswith(".keras") or os.path.exists(path):
                raise InputError(
                    "Expected a new folder for zipped=False, whose name does not end in .keras. "
                    f"Received: {path}."
                )
        elif not path.endswith(".keras") and not path.startswith("hf://"):
            raise InputError(f"{_CANNOT_BE_LOADED} Received: {path}.")
        super().save(filepath, overwrite=overwrite, zipped=zipped, **options)

    def serialized_members(self, members: Sequence[keras.Model]) -> list[dict[str, Any]]:
        """What Keras writes of members in a configuration.

        Raises:
            InputError: Keras is writing an HDF5 file, which `keras.saving.save_model` still does.
        """
        configs = [keras.saving.serialize_keras_object(member) for member in members]
        layers = [layer for each in configs for layer in each["config"].get("layers", ())]
        # Such files lack the modules of the layers' classes.
        if any(isinstance(layer, dict) and "module" not in layer for layer in layers):
            raise InputError(f"{_CANNOT_BE_LOADED} Received: an HDF5 file.")
        return configs

    def save_own_variables(self, store: Any) -> None:
        """Called by Keras before it writes a model's parts, whatever it writes them into."""
        self.build_optimizer()  # which would be empty before the first step
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Called by Keras before it reads a model's parts, the optimizer's variables among them."""
        self.build_optimizer()
        super().load_own_variables(store)

    def get_compile_config(self) -> dict[str, Any]:
        """Keras's, without the choice of XLA, which is left to the machine that loads the model."""
        config = super().get_compile_config()
        return {**config, "jit_compile": "auto"} if config.get("jit_compile") else config

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **options: Any,
    ) -> None:
        """Keras's `export`, for batches of any size unless a signature says otherwise."""
        if input_signature is None:
            shape = (None, *self.image_shape)
            input_signature = [keras.InputSpec(shape=shape, dtype="float32")]
        self(tf.zeros((1, *self.image_shape)))  # Keras refuses a model that was never called
        super().export(filepath, format, verbose, input_signature, **options)
