"""The loss that training minimises and validation reports."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import tensorflow as tf

from parl_tf.defences.forward import ForwardPass, class_numbers
from parl_tf.errors import InputError
from parl_tf.runtime.replicas import num_replicas
from parl_tf.tensors import widened

if TYPE_CHECKING:
    from parl_tf.defences.base import Ensemble


class Objective(NamedTuple):
    """The loss of one batch, and its parts.

    Attributes:
        loss: A scalar.
        forward: The pass over the batch that the method's terms are computed from.
        terms: The cross-entropy and the method's terms, scalars before weighting, by name.
    """

    loss: tf.Tensor
    forward: ForwardPass
    terms: dict[str, tf.Tensor]


def objective(
    ensemble: "Ensemble",
    images: tf.Tensor,
    labels: tf.Tensor,
    sample_weight: Any,
    views: Sequence[Sequence[tf.Tensor]] | None,
    training: bool,
) -> Objective:
    """Computes an ensemble's loss of one batch.

    Args:
        ensemble: A compiled ensemble.
        images: Tensor (batch, height, width, channels), pixels in [0, 1].
        labels: The labels as they were given to `fit`.
        sample_weight: The sample weights as they were given to `fit`, or None.
        views: For each member the batches for its cross-entropy, if not the images: see
            `Ensemble.craft`.
        training: Whether members are in training mode.

    Raises:
        InputError: The ensemble was compiled with a loss that does not take logits.
    """
    loss_of = logits_loss(ensemble.loss)
    indices = range(len(ensemble.members))
    # Crafted images are for the cross-entropy; terms, if any, need a pass over the clean images.
    separate = views is not None and bool(ensemble.term_weights)
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        if views is None or separate:
            for source in (images, *ensemble.watched()):
                tape.watch(source)
            passes = [ensemble.forward_member(index, images, training) for index in indices]
        else:
            passes = [
                (ensemble.run_member(index, own[0], training), [])
                for index, own in enumerate(views)
            ]
        logits = [widened(member_logits) for member_logits, _ in passes]
        losses = [example_losses(loss_of, labels, member_logits) for member_logits in logits]
    # Keras keeps only the losses that the last call of a layer added, and more calls may follow.
    regularizations = list(ensemble.losses)
    layers = [member_layers for _, member_layers in passes]
    classes = class_numbers(labels, ensemble.num_classes)
    forward = ForwardPass(images, labels, classes, logits, layers, losses, tape, training)
    cross_entropies = []
    for index in indices:
        answers = [] if separate else [logits[index]]
        for view in views[index][len(answers) :] if views else []:
            answers.append(widened(ensemble.run_member(index, view, training)))
        cross_entropies += [loss_of(labels, answer, sample_weight) for answer in answers]
    # Undoes Keras's division of means by the number of replicas; `train_step` divides the loss.
    cross_entropy = tf.add_n(cross_entropies) * num_replicas()
    if ensemble.member_reduction == "mean":
        cross_entropy /= len(ensemble.members)
    terms = {"cross_entropy": cross_entropy, **ensemble.terms(forward)}
    loss = ensemble.accuracy_weight * cross_entropy
    for term, weight in ensemble.term_weights.items():
        loss += weight * terms[term]
    for regularization in regularizations:
        loss += tf.cast(regularization, loss.dtype)
    return Objective(loss, forward, terms)


def example_losses(loss: keras.losses.Loss, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The loss of each example, before any weighting: `Ensemble.example_losses`."""
    logits = widened(logits)
    labels = tf.cast(labels, logits.dtype) if labels.dtype.is_floating else labels
    return tf.reshape(loss.call(labels, logits), (-1,))


def logits_loss(loss: Any) -> keras.losses.Loss:
    """The loss given to `compile`, if it takes logits.

    Raises:
        InputError: It does not, or does not say so.
    """
    own = type(loss).__module__.split(".")[0] != "keras"  # a user's own loss is trusted
    if not isinstance(loss, keras.losses.Loss) or not getattr(loss, "from_logits", own):
        raise InputError(
            "Members return logits. Expected compile(loss=...) to be a loss object that takes "
            "them, such as keras.losses.SparseCategoricalCrossentropy(from_logits=True). "
            f"Received: {loss!r}."
        )
    return loss
