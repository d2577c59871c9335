"""Gradients of networks with respect to pixels, in inference mode, and their cosines."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from parl_tf.tensors import LOSS_SCALE, pairwise_cosine, summed_gradients, widened


def loss_gradient_cosines(
    members: Sequence[keras.Model], images: tf.Tensor, labels: tf.Tensor
) -> tf.Tensor:
    """Cosines of the members' loss gradients, in inference mode.

    Args:
        members: Classifiers that return logits.
        images: Tensor (batch, height, width, channels), pixels in [0, 1].
        labels: Integer tensor (batch,), the true classes.

    Returns:
        Tensor (batch, pairs), ordered as by `pairwise_cosine`: cosines between the gradients of
        each example's cross-entropy with respect to its pixels.
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
        layers_of: For each member, a model from images to its compared layers.
        images: Tensor (batch, height, width, channels), pixels in [0, 1].

    Returns:
        Tensor (layers, batch, pairs): for each layer the cosines between the gradients of its
        summed output with respect to the pixels.

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
