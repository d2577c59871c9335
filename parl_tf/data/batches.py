"""Training batches, augmented anew in every epoch and the same in every repetition of a run."""

from typing import Any

import numpy as np
import tensorflow as tf

from parl_tf.arguments import check_seed
from parl_tf.data.examples import Split, check_examples
from parl_tf.data.own import Examples, as_arrays
from parl_tf.errors import InputError


def training_batches(
    split: Examples,
    *,
    batch_size: int,
    seed: int,
    max_shift: int = 4,
    flip: bool = True,
    noise_stddev: float = 0.0,
    initial_epoch: int = 0,
) -> tf.data.Dataset:
    """Shuffled and augmented batches for `fit`, one epoch a pass.

    The order of an epoch follows from (seed, epoch); an image's shift, flip and noise from (seed,
    epoch, index). The n-th pass over the data set is the n-th epoch, so plain
    `fit(batches, epochs=...)` never sees an epoch twice.

    Args:
        split: Images and labels to train on: a `parl_tf.Split`, a pair of arrays, the training
            part of what `load_dataset` returns, or a finite `tf.data.Dataset` or other iterable of
            such pairs, batches or single examples, which is read into memory.
        batch_size: Examples a batch. A last, smaller batch is left out, another part of the
            examples in each epoch.
        seed: Decides order and augmentation.
        max_shift: Images are shifted by up to so many pixels each way, the gap black; 0 for none.
        flip: Whether half of the images are mirrored left to right.
        noise_stddev: Half of the images get Gaussian noise of this deviation, in pixel units of
            [0, 1], and are clipped to [0, 1] (not in the common port of GAL); 0 for none.
        initial_epoch: Epoch of the first pass; a resumed run gives `fit` the same number.

    Returns:
        Data set of (images, labels): float32 (batch_size, height, width, channels), pixels in
        [0, 1], and int64 (batch_size,).

    Raises:
        InputError: Images or labels that are not as in `Split`, or data without an end; fewer
            examples than a batch, a batch of fewer than one, a negative shift, deviation or seed.
    """
    split = check_examples(*as_arrays(split, "train"))
    if not 1 <= batch_size <= len(split):
        raise InputError(
            f"Expected batch_size from 1 to {len(split)}, the number of examples. "
            f"Received: {batch_size}."
        )
    check_seed(seed)
    if max_shift < 0:
        raise InputError(f"Expected max_shift of at least 0. Received: {max_shift}.")
    if not 0 <= noise_stddev < float("inf"):
        raise InputError(f"Expected a finite noise_stddev of at least 0. Received: {noise_stddev}.")
    images, labels = tf.constant(split.images), tf.constant(split.labels)
    count = tf.shape(labels)[0]
    next_epoch = tf.Variable(initial_epoch, dtype=tf.int32, trainable=False)

    def batches_of_epoch(_):
        # One draw for the whole epoch, indexed by example: what an image gets does not depend on
        # the batch or the order it comes in.
        key = tf.stack([seed, next_epoch.assign_add(1)])
        key_order, key_shift, key_flip = tf.unstack(tf.random.experimental.stateless_split(key, 3))
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=key_order)
        shifts = tf.random.stateless_uniform(
            (count, 2), seed=key_shift, minval=0, maxval=2 * max_shift + 1, dtype=tf.int32
        )
        flips = flip & (tf.random.stateless_uniform((count,), seed=key_flip) < 0.5)
        key_noisy, key_noise = tf.unstack(
            tf.random.experimental.stateless_split(tf.random.fold_in(key, 3), 2)
        )
        noisy = tf.random.stateless_uniform((count,), seed=key_noisy) < 0.5

        def gather(indices):
            batch = tf.gather(images, indices)
            if max_shift or flip:
                batch = shift_and_flip(
                    batch, tf.gather(shifts, indices), tf.gather(flips, indices), max_shift
                )
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
    """Training batches, each with the images of a second one that is shuffled independently.

    Args:
        split: As for `training_batches`.
        seed: Decides order and augmentation of both. The first batches are those that
            `training_batches` gives for it.
        **options: As for `training_batches`.

    Returns:
        Data set of ((images, partners), labels); labels go with the images. For
        `parl_tf.DVERGE`.

    Raises:
        InputError: What `training_batches` refuses.
    """
    split = Split(*as_arrays(split, "train"))  # read once: it may come in another order again
    first = training_batches(split, seed=seed, **options)
    partner_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0] % 2**31)
    second = training_batches(split, seed=partner_seed, **options)
    return tf.data.Dataset.zip(first, second).map(lambda own, other: ((own[0], other[0]), own[1]))


def shift_and_flip(
    images: tf.Tensor, shifts: tf.Tensor, flips: tf.Tensor, max_shift: int
) -> tf.Tensor:
    """Cuts a window out of each image padded by black pixels, and mirrors it.

    Args:
        images: Tensor (batch, height, width, channels), pixels in [0, 1].
        shifts: int32 tensor (batch, 2), row and column of the window's upper left corner, from 0
            to 2 * max_shift; max_shift leaves the image in place.
        flips: bool tensor (batch,), which images to mirror left to right.
        max_shift: Width of the padding, in pixels.

    Returns:
        Tensor of the shape of `images`.
    """
    height, width = images.shape[1:3]
    padded = tf.pad(images, [[0, 0], [max_shift, max_shift], [max_shift, max_shift], [0, 0]])
    rows = shifts[:, :1] + tf.range(height)
    columns = shifts[:, 1:] + tf.range(width)
    columns = tf.where(flips[:, tf.newaxis], tf.reverse(columns, [1]), columns)
    window = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(window, columns, axis=2, batch_dims=1)


def add_noise(
    images: tf.Tensor, chosen: tf.Tensor, seed: tf.Tensor, indices: tf.Tensor, stddev: float
) -> tf.Tensor:
    """Adds Gaussian noise to some images and clips these to [0, 1].

    Args:
        images: Tensor (batch, height, width, channels), pixels in [0, 1].
        chosen: bool tensor (batch,), which images get noise.
        seed: int32 tensor (2,).
        indices: int32 tensor (batch,), what an image's noise follows from, beside the seed.
        stddev: Deviation of the noise, in pixel units.

    Returns:
        Tensor of the shape of `images`.
    """

    def noise_of(index):
        return tf.random.stateless_normal(images.shape[1:], tf.random.fold_in(seed, index))

    noise = stddev * tf.map_fn(noise_of, indices, fn_output_signature=images.dtype)
    noisy = tf.clip_by_value(images + noise, 0.0, 1.0)
    return tf.where(tf.reshape(chosen, (-1, 1, 1, 1)), noisy, images)
