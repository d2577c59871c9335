"""Training batches: augmented differently in every epoch, identically in every repeated run."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from parl_tf.arguments import check_seed
from parl_tf.data.augmentation.pipeline import Augmentation
from parl_tf.data.examples import Split, check_examples
from parl_tf.data.own import Examples, as_arrays
from parl_tf.errors import InputError


def training_batches(
    split: Examples,
    *,
    batch_size: int,
    seed: int,
    augmentation: Sequence[Callable[..., Any]] | None = None,
    noise_stddev: float = 0.0,
    initial_epoch: int = 0,
) -> tf.data.Dataset:
    """Shuffled and augmented batches for `fit`, one epoch per pass.

    The order of an epoch is determined by (seed, epoch), an image's augmentation and noise by
    (seed, epoch, index). The n-th pass over the data set is the n-th epoch, so a plain
    `fit(batches, epochs=...)` never repeats an epoch.

    `augmentation` takes Keras's layers. RandomFlip, RandomTranslation, RandomZoom and
    RandomRotation are given a draw for each image, whatever their own `seed`, and compute in
    float32, whatever the global policy. A RandomTranslation with interpolation="nearest" shifts by
    whole pixels, each shift within its factors being equally likely; with "bilinear", by fractions.

    Any other layer or function, subclasses of these four included, is applied to each batch as it
    is, a layer with `training=True`, and makes its own draws. What an image gets then depends on
    the batches that came before, and is another in a repeated or resumed run; some layers draw once
    for a whole batch, as RandomCrop does.

    Args:
        split: Images and labels to train on: a `parl_tf.Split`, a pair of arrays, a
            `parl_tf.Dataset` (its training part), or a finite `tf.data.Dataset` or other iterable
            of such pairs, batches or single examples, which is read into memory.
        batch_size: Examples per batch. A smaller last batch is dropped, which leaves out
            different examples in each epoch.
        seed: Determines order and augmentation.
        augmentation: Layers, or functions of a batch of images, in the order in which they are
            applied; their result has the shape of the images, and pixels in [0, 1]. () for none;
            None for the layers of `AUGMENTATIONS["shifts"]`, shifts of up to 10 % and mirroring.
        noise_stddev: Standard deviation, in pixel units of [0, 1], of the Gaussian noise added to
            half of the images, which are then clipped to [0, 1] (the common port of GAL does not
            clip); 0 for no noise.
        initial_epoch: Epoch of the first pass; a resumed run gives `fit` the same number.

    Returns:
        Data set of (images, labels): float32 (batch_size, height, width, channels), pixels in
        [0, 1], and int64 (batch_size,).

    Raises:
        InputError: Images or labels that are not as described in `Split`, or endless data; fewer
            examples than one batch; a batch_size below 1; a negative deviation or seed; an
            augmentation of something else than layers and functions, that changes the shape of
            images, or of translations by whole pixels that allow none.

    Example:
        >>> layers = [keras.layers.RandomRotation(0.05), keras.layers.RandomZoom(0.1)]
        >>> batches = parl_tf.training_batches(
        ...     dataset.train, batch_size=16, seed=0, augmentation=layers
        ... )
        >>> [tuple(images.shape) for images, labels in batches]
        [(16, 32, 32, 3), (16, 32, 32, 3), (16, 32, 32, 3), (16, 32, 32, 3)]
    """
    split = check_examples(*as_arrays(split, "train"))
    if not 1 <= batch_size <= len(split):
        raise InputError(
            f"Expected batch_size from 1 to {len(split)}, the number of examples. "
            f"Received: {batch_size}."
        )
    check_seed(seed)
    if not 0 <= noise_stddev < float("inf"):
        raise InputError(f"Expected a finite noise_stddev of at least 0. Received: {noise_stddev}.")
    images, labels = tf.constant(split.images), tf.constant(split.labels)
    augment = Augmentation(augmentation, tuple(images.shape[1:]))
    count = tf.shape(labels)[0]
    next_epoch = tf.Variable(initial_epoch, dtype=tf.int32, trainable=False)

    def batches_of_epoch(_: tf.Tensor) -> tf.data.Dataset:
        # One draw for the whole epoch, indexed by example: an image's augmentation does not
        # depend on its batch or on the order.
        key = tf.stack([seed, next_epoch.assign_add(1)])
        key_order, keys_of_layers, key_noise = _keys(key, len(augment))
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=key_order)
        drawn = augment.draw(count, keys_of_layers)
        key_noisy, key_noise = tf.unstack(tf.random.experimental.stateless_split(key_noise, 2))
        noisy = tf.random.stateless_uniform((count,), seed=key_noisy) < 0.5

        def gather(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = augment(tf.gather(images, indices), drawn, indices)
            if noise_stddev:
                chosen = tf.gather(noisy, indices)
                batch = add_noise(batch, chosen, key_noise, indices, noise_stddev)
            return batch, tf.gather(labels, indices)

        indices = tf.data.Dataset.from_tensor_slices(order)
        return indices.batch(batch_size, drop_remainder=True).map(gather)

    batches = tf.data.Dataset.from_tensors(0).flat_map(batches_of_epoch)
    num_batches = len(split) // batch_size
    return batches.apply(tf.data.experimental.assert_cardinality(num_batches)).prefetch(2)


def paired_batches(split: Examples, *, seed: int, **options: Any) -> tf.data.Dataset:
    """Training batches for `parl_tf.DVERGE`: images with independently shuffled partners.

    Args:
        split: As for `training_batches`.
        seed: Determines order and augmentation of images and partners. The images are those of
            `training_batches` for the same seed.
        **options: As for `training_batches`.

    Returns:
        Data set of ((images, partners), labels), with the labels of the images.

    Raises:
        InputError: As for `training_batches`.

    Example:
        >>> batches = parl_tf.paired_batches(dataset.train, batch_size=16, seed=0)
        >>> (images, partners), labels = next(iter(batches))
        >>> images.shape == partners.shape
        True
    """
    split = Split(*as_arrays(split, "train"))  # read once: a second pass may differ in order
    first = training_batches(split, seed=seed, **options)
    partner_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0] % 2**31)
    second = training_batches(split, seed=partner_seed, **options)
    return tf.data.Dataset.zip(first, second).map(lambda own, other: ((own[0], other[0]), own[1]))


def _keys(key: tf.Tensor, num_layers: int) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
    """An epoch's keys: of the order, of each layer of the augmentation, and of the noise.

    An interrupted run continues with those it was begun with, also in a later version.
    """
    order, *first = tf.unstack(tf.random.experimental.stateless_split(key, 3))
    further = [tf.random.fold_in(key, number) for number in range(4, num_layers + 2)]
    return order, [*first, *further][:num_layers], tf.random.fold_in(key, 3)


def add_noise(
    images: tf.Tensor, chosen: tf.Tensor, seed: tf.Tensor, indices: tf.Tensor, stddev: float
) -> tf.Tensor:
    """Adds Gaussian noise to the chosen images and clips them to [0, 1].

    Args:
        images: Tensor (batch, height, width, channels), pixels in [0, 1].
        chosen: bool tensor (batch,), which images get noise.
        seed: int32 tensor (2,).
        indices: int32 tensor (batch,), which together with the seed determines an image's noise.
        stddev: Standard deviation of the noise, in pixel units.

    Returns:
        Tensor with the shape of `images`.
    """

    def noise_of(index: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_normal(images.shape[1:], tf.random.fold_in(seed, index))

    noise = stddev * tf.map_fn(noise_of, indices, fn_output_signature=images.dtype)
    noisy = tf.clip_by_value(images + noise, 0.0, 1.0)
    return tf.where(tf.reshape(chosen, (-1, 1, 1, 1)), noisy, images)
