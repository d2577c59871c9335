"""Diversity of the members during training, measured in the same way for every method."""

from typing import Any

import keras
import tensorflow as tf

from parl_tf.data.examples import check_examples
from parl_tf.defences.base import Ensemble
from parl_tf.errors import InputError
from parl_tf.graphs.exposure import layer_outputs
from parl_tf.graphs.flattening import graph_part
from parl_tf.graphs.input_gradients import layer_gradient_cosines, loss_gradient_cosines


class DiversityDiagnostics(keras.callbacks.Callback):
    """Adds two measures of diversity to each epoch's history, the same for every method.

    `gradient_cosine`: the mean, over examples and pairs of members, of the cosine of their loss
    gradients, which transfer depends on. `parl_penalty`: PARL's penalty with its default
    arguments, the sum over layers and pairs of the mean cosine of layer gradients.

    Put it before callbacks that write the history, such as `CSVLogger`.

    Args:
        images: Array (n, height, width, channels), pixels in [0, 1], the same in every epoch.
        labels: Integer array (n,), the true classes.
        num_layers: How many layers `parl_penalty` compares.
        batch_size: Images per batch.

    Raises:
        InputError: Images or labels are not as described; when training begins, the model is not
            an `Ensemble`, or its members have fewer convolutions than `num_layers`.

    Example:
        >>> recipe = parl_tf.Recipe(network="resnet8")
        >>> ensemble = parl_tf.build_ensemble("gal", dataset, recipe=recipe, num_members=2)
        >>> ensemble.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> history = ensemble.fit(
        ...     parl_tf.training_batches(dataset.train, batch_size=32, seed=0),
        ...     callbacks=parl_tf.DiversityDiagnostics(
        ...         dataset.validation.images, dataset.validation.labels, num_layers=2
        ...     ),
        ...     shuffle=False,  # the batches are shuffled already
        ...     verbose=0,
        ... )
        >>> {"gradient_cosine", "parl_penalty"} <= set(history.history)
        True
    """

    def __init__(
        self, images: Any, labels: Any, *, num_layers: int = 7, batch_size: int = 125
    ) -> None:
        super().__init__()
        self._examples = check_examples(images, labels)
        self._num_layers = num_layers
        self._batch_size = batch_size
        self._measure: Any = None

    def set_model(self, model: Ensemble) -> None:
        """Builds the graph that measures a model's members."""
        super().set_model(model)
        if not isinstance(model, Ensemble):
            raise InputError(f"Expected an Ensemble to measure. Received: {model!r}.")
        members = model.members
        layers_of = [
            graph_part(member.inputs, layer_outputs(member, self._num_layers)) for member in members
        ]

        def measure(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            penalties = tf.reduce_sum(layer_gradient_cosines(layers_of, images), axis=[0, 2])
            cosines = tf.reduce_mean(loss_gradient_cosines(members, images, labels), axis=1)
            return tf.reduce_sum(cosines), tf.reduce_sum(penalties)

        self._measure = tf.function(measure, reduce_retracing=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the measures to the epoch's logs."""
        batches = tf.data.Dataset.from_tensor_slices(
            (self._examples.images, self._examples.labels)
        ).batch(self._batch_size)
        sums = [self._measure(images, labels) for images, labels in batches]
        names = ("gradient_cosine", "parl_penalty")
        for name, values in zip(names, zip(*sums, strict=True), strict=True):
            if logs is not None:
                logs[name] = float(sum(float(v) for v in values)) / len(self._examples)
