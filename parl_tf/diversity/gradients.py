"""How differently members look at images, measured the same way whatever they were trained by."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from parl_tf.data import check_examples
from parl_tf.defences.base import Ensemble
from parl_tf.defences.forward import widened
from parl_tf.errors import InputError
from parl_tf.exposure import layer_outputs
from parl_tf.flattening import graph_part
from parl_tf.gradients import LOSS_SCALE, pairwise_cosine, summed_gradients


def loss_gradient_cosines(
    members: Sequence[keras.Model], images: tf.Tensor, labels: tf.Tensor
) -> tf.Tensor:
    """Cosines of the members' loss gradients, in inference mode.

    Args:
        members: Classifiers that return logits.
        images: Tensor (batch, height, width, channels), pixels in [0, 1].
        labels: Integer tensor (batch,), the true classes.

    Returns:
        Tensor (batch, pairs), ordered as by `pairwise_cosine`: of each example's gradient of its
        cross-entropy with respect to its pixels.
    """
    return pairwise_cosine(loss_gradients(members, images, labels))


def loss_gradients(
    members: Sequence[keras.Model], images: tf.Tensor, labels: tf.Tensor
) -> list[tf.Tensor]:
    """Each member's gradient of its cross-entropy with respect to the pixels, in inference mode.

    Arguments are those of `loss_gradient_cosines`.

    Returns:
        A tensor of the shape of the images for each member.
    """
    images = tf.convert_to_tensor(images)
    gradients = []
    for member in members:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            logits = widened(member(images, training=False))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        gradients += summed_gradients(tape, [losses], images, scale=LOSS_SCALE)
    return gradients


def layer_gradient_cosines(layers_of: Sequence[keras.Model], images: tf.Tensor) -> tf.Tensor:
    """Cosines of the members' layer gradients, in inference mode.

    Args:
        layers_of: For each member the model from images to its compared layers.
        images: Tensor (batch, height, width, channels), pixels in [0, 1].

    Returns:
        Tensor (layers, batch, pairs): for each layer the cosines of its summed output's gradient
        with respect to the pixels.

    Source: PARL, arXiv 2112.04948, section 4.2.
    """
    images = tf.convert_to_tensor(images)
    gradients = []
    for model in layers_of:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(images)
            outputs = keras.tree.flatten(model(images, training=False))
        gradients.append(summed_gradients(tape, outputs, images))
    return tf.stack([pairwise_cosine(layer) for layer in zip(*gradients, strict=True)])


class DiversityDiagnostics(keras.callbacks.Callback):
    """Adds two measures of diversity to each epoch's history, for any method alike.

    `gradient_cosine`: the mean, over examples and pairs of members, of the cosine of their loss
    gradients, which transfer depends on. `parl_penalty`: PARL's penalty with its default
    arguments, the sum over layers and pairs of the mean cosine of layer gradients.

    Put it before callbacks that write the history, such as `CSVLogger`.

    Args:
        images: Array (n, height, width, channels), pixels in [0, 1], the same in every epoch.
        labels: Integer array (n,), the true classes.
        num_layers: How many layers `parl_penalty` compares.
        batch_size: Images at a time.

    Raises:
        InputError: Images or labels that are not as described; when training begins, a model that
            is not an `Ensemble`, or members with fewer convolutions than `num_layers`.
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
        """Prepares the graph of the measures on a model's members."""
        super().set_model(model)
        if not isinstance(model, Ensemble):
            raise InputError(f"Expected an Ensemble to measure. Received: {model!r}.")
        members = model.members
        layers_of = [
            graph_part(member.inputs, layer_outputs(member, self._num_layers)) for member in members
        ]

        def measure(images, labels):
            penalties = tf.reduce_sum(layer_gradient_cosines(layers_of, images), axis=[0, 2])
            cosines = tf.reduce_mean(loss_gradient_cosines(members, images, labels), axis=1)
            return tf.reduce_sum(cosines), tf.reduce_sum(penalties)

        self._measure = tf.function(measure, reduce_retracing=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures, and adds to what the epoch reports."""
        batches = tf.data.Dataset.from_tensor_slices(
            (self._examples.images, self._examples.labels)
        ).batch(self._batch_size)
        sums = [self._measure(images, labels) for images, labels in batches]
        names = ("gradient_cosine", "parl_penalty")
        for name, values in zip(names, zip(*sums, strict=True), strict=True):
            if logs is not None:
                logs[name] = float(sum(float(v) for v in values)) / len(self._examples)
