"""Epochs: order, augmentation and noise. For single layers, see test_augmentation_layers.py."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import examples, logits_loss, plain_network

from parl_tf.data.augmentation import AUGMENTATIONS
from parl_tf.data.batches import paired_batches, training_batches
from parl_tf.data.examples import Split
from parl_tf.errors import InputError


def numbered(count, shape=(20, 21, 3)):
    """Random images without black pixels, each labelled with its index."""
    images = np.random.default_rng(0).uniform(0.1, 1, (count, *shape))
    return Split(images.astype("float32"), np.arange(count))


def one_pass(batches):
    """The images and labels of one pass, in order."""
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def passes(split, count, **arguments):
    batches = training_batches(split, **{"batch_size": 4, "seed": 0, **arguments})
    return [one_pass(batches) for _ in range(count)]


def by_label(images, labels):
    """The images in the order of their labels."""
    return images[np.argsort(labels)]


def assert_same(first, second):
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        np.testing.assert_array_equal(images, other_images)


def share_of_equal_images(first, second):
    equal = by_label(*first) == by_label(*second)
    return equal.all(axis=(1, 2, 3)).mean()


LAYERS = {
    "the default": None,
    **{
        name: AUGMENTATIONS[name]((20, 21, 3), mirror=True)
        for name in ("bilinear-shifts", "edge-crops-4", "black-crops-4")
    },
    "all kinds": [
        keras.layers.RandomFlip("vertical"),
        keras.layers.RandomZoom(0.2),
        keras.layers.RandomRotation(0.1, seed=3),
        keras.layers.RandomTranslation((-0.1, 0.2), 0.1),
        keras.layers.RandomFlip("horizontal"),
    ],
}
every_kind = pytest.mark.parametrize("augmentation", LAYERS.values(), ids=LAYERS)


@every_kind
def test_every_epoch_has_all_examples_in_an_order_and_augmentation_of_its_own(augmentation):
    epochs = passes(numbered(40), 3, augmentation=augmentation)
    for _, labels in epochs:
        assert sorted(labels) == list(range(40))
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert epochs[first][1].tolist() != epochs[second][1].tolist()
        assert share_of_equal_images(epochs[first], epochs[second]) < 0.1


@every_kind
def test_a_repeated_run_is_identical_and_another_seed_is_not(augmentation):
    split, options = numbered(40), {"augmentation": augmentation}
    epochs = passes(split, 2, **options)
    assert_same(epochs, passes(split, 2, **options))
    for found, other in zip(epochs, passes(split, 2, **options, seed=1), strict=True):
        assert found[1].tolist() != other[1].tolist()
        assert share_of_equal_images(found, other) < 0.1


@every_kind
def test_global_generators_do_not_matter_and_are_left_alone(augmentation):
    def disturbed_run(seed):
        keras.utils.set_random_seed(seed)
        before = random.getstate()
        batches = training_batches(numbered(20), batch_size=4, seed=0, augmentation=augmentation)
        epochs = [one_pass(batches)]
        assert random.getstate() == before  # Keras takes the seeds of layers from it
        tf.random.set_seed(seed + 1)
        np.random.seed(seed + 2)
        return [*epochs, one_pass(batches)]

    assert_same(disturbed_run(0), disturbed_run(10))


@every_kind
@pytest.mark.parametrize("batch_size", [1, 5, 20])
def test_an_epoch_does_not_depend_on_the_batch_size(batch_size, augmentation):
    split, options = numbered(20), {"augmentation": augmentation}
    assert_same(passes(split, 2, **options), passes(split, 2, **options, batch_size=batch_size))


def test_what_an_image_gets_does_not_depend_on_the_batch_it_is_left_in():
    split = numbered(20)
    (whole, order), (part, labels) = (
        passes(split, 1, batch_size=batch_size)[0] for batch_size in (20, 7)
    )
    assert len(labels) == 14
    np.testing.assert_array_equal(part, by_label(whole, order)[labels])


@every_kind
@pytest.mark.parametrize("epoch", [1, 3])
def test_initial_epoch_continues_where_a_run_left_off(epoch, augmentation):
    split = numbered(20)
    noise = {"noise_stddev": 0.1, "augmentation": augmentation}
    expected = passes(split, epoch + 2, **noise)[epoch:]
    assert_same(expected, passes(split, 2, **noise, initial_epoch=epoch))


def test_pairs_continue_where_a_run_left_off():
    def pairs(initial_epoch=0):
        batches = paired_batches(numbered(12), batch_size=4, seed=0, initial_epoch=initial_epoch)
        return lambda: [np.concatenate(images) for images, _ in batches.as_numpy_iterator()]

    from_the_beginning, continued = pairs(), pairs(2)
    epochs = [from_the_beginning() for _ in range(4)]
    np.testing.assert_array_equal(epochs[2:], [continued() for _ in range(2)])
    assert not np.array_equal(epochs[0], epochs[2])


def keys_of(seed, epoch):
    """The keys of order, shift and flip, as runs have had them from the beginning."""
    return tf.unstack(tf.random.experimental.stateless_split(tf.constant([seed, epoch + 1]), 3))


def shifted_and_mirrored(image, down, right, mirrored, *, black):
    """The image moved by whole pixels, pixel by pixel; what is outside is black or the edge."""
    result, (height, width) = np.zeros_like(image), image.shape[:2]
    for row in range(height):
        for column in range(width):
            y, x = row - down, column - right
            inside = 0 <= y < height and 0 <= x < width
            if inside or not black:
                y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                result[row, width - 1 - column if mirrored else column] = image[y, x]
    return result


def expected_epoch(split, seed, epoch, largest, *, black, mirror=True):
    """An epoch in plain loops: the images in their order, and their labels."""
    count = len(split)
    order, shift, flip = keys_of(seed, epoch)
    order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=order).numpy()
    corners = tf.random.stateless_uniform((count, 2), shift, 0, 2 * largest + 1, tf.int32).numpy()
    flips = mirror & (tf.random.stateless_uniform((count,), flip).numpy() < 0.5)
    images = [
        shifted_and_mirrored(split.images[i], *(largest - corners[i]), flips[i], black=black)
        for i in order
    ]
    return np.stack(images), order


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("pixels", [0, 1, 4, 17])
def test_runs_of_earlier_versions_go_on_with_the_same_shifts_and_flips(pixels, mirror):
    shape = (18, 17, 2)
    split, layers = numbered(40, shape), AUGMENTATIONS[f"black-crops-{pixels}"](shape, mirror)
    expected = [
        expected_epoch(split, 7, epoch, pixels, black=True, mirror=mirror) for epoch in (1, 2)
    ]
    options = {"seed": 7, "augmentation": layers, "initial_epoch": 1}
    assert_same(passes(split, 2, **options), expected)


@pytest.mark.parametrize("shape", [(32, 32, 3), (30, 49, 1)])
def test_the_default_is_shifts_of_a_tenth_with_the_edge_in_the_gap(shape):
    """100 images, bit for bit. A tenth of 49 is 4 whole pixels, a tenth of the others 3."""
    split = numbered(100, shape)
    if shape[0] == shape[1]:
        expected = [expected_epoch(split, 3, epoch, 3, black=False) for epoch in (0, 1)]
        assert_same(passes(split, 2, seed=3), expected)
    for images, labels in passes(split, 2, seed=3):
        seen = set()
        for image, label in zip(images, labels, strict=True):
            seen |= {
                (down, right)
                for down in range(-4, 5)
                for right in range(-5, 6)
                for mirrored in (False, True)
                if np.array_equal(moved(split.images[label], down, right, mirrored), image)
            }
        assert len(seen) > 30
        assert {abs(down) for down, _ in seen} == {0, 1, 2, 3}
        assert {abs(right) for _, right in seen} == set(range(shape[1] // 10 + 1))


def moved(image, down, right, mirrored):
    """The image moved by whole pixels over its edge."""
    height, width = image.shape[:2]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    image = image[rows][:, columns]
    return image[:, ::-1] if mirrored else image


@pytest.mark.parametrize("layers", [(), AUGMENTATIONS["none"]((20, 21, 3), mirror=True)])
def test_without_augmentation_images_stay_as_they_are(layers):
    split = numbered(20)
    for images, labels in passes(split, 2, augmentation=layers):
        np.testing.assert_array_equal(images, split.images[labels])


def test_half_of_the_images_are_flipped_and_each_epoch_chooses_anew():
    split = numbered(2000, (1, 2, 1))
    flipped = []
    for epoch in passes(split, 2, batch_size=100):  # too small to be shifted by a tenth
        images = by_label(*epoch)
        mirrored = (images == split.images[:, :, ::-1]).all(axis=(1, 2, 3))
        unchanged = (images == split.images).all(axis=(1, 2, 3))
        assert (mirrored ^ unchanged).all()
        flipped.append(mirrored)
    first, second = flipped
    assert first.mean() == pytest.approx(0.5, abs=0.05)
    assert second.mean() == pytest.approx(0.5, abs=0.05)
    assert (first & second).mean() == pytest.approx(0.25, abs=0.05)


def test_a_last_smaller_batch_is_left_out_of_each_epoch_with_other_examples():
    split = numbered(11)
    batches = training_batches(split, batch_size=4, seed=0)
    assert int(batches.cardinality()) == 2
    left_out = set()
    for _ in range(4):
        epoch = [labels.tolist() for _, labels in batches.as_numpy_iterator()]
        assert [len(labels) for labels in epoch] == [4, 4]
        left_out.add(frozenset(range(11)).difference(*epoch))
    assert {len(missing) for missing in left_out} == {3}
    assert len(left_out) > 1


def test_batches_have_static_shapes_and_stay_in_range():
    split = numbered(11)
    images, labels = training_batches(split, batch_size=4, seed=0).element_spec
    assert images == tf.TensorSpec((4, 20, 21, 3), tf.float32)
    assert labels == tf.TensorSpec((4,), tf.int64)
    ((augmented, _),) = passes(split, 1)
    assert augmented.min() >= 0.1  # no gap of a shift is black
    assert augmented.max() <= 1


def fitted(epochs, *, network=None, initial_epoch=0):
    """A network, and the batches it was fitted on up to `epochs`."""
    if network is None:
        network = plain_network(0)
        network.compile(keras.optimizers.SGD(0.1), logits_loss(), jit_compile=False)
    batches = training_batches(
        Split(*examples(20)), batch_size=8, seed=0, initial_epoch=initial_epoch
    )
    history = network.fit(
        batches, epochs=epochs, initial_epoch=initial_epoch, shuffle=False, verbose=0
    )
    assert history.epoch == list(range(initial_epoch, epochs))
    return network, batches


def test_fit_sees_one_pass_an_epoch():
    network, batches = fitted(2)
    assert int(network.optimizer.iterations) == 4
    assert_same([one_pass(batches)], passes(Split(*examples(20)), 3, batch_size=8)[2:])


def test_a_resumed_fit_ends_where_an_uninterrupted_one_does():
    whole, _ = fitted(4)
    half, _ = fitted(2)
    resumed, _ = fitted(4, network=half, initial_epoch=2)
    for found, expected in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size from 1 to 20, the number of examples. Received: 0"),
        ({"batch_size": 21}, "batch_size from 1 to 20.*Received: 21"),
    ],
)
def test_refuses_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        training_batches(numbered(20), **{"batch_size": 4, "seed": 0, **arguments})


def noise_of_an_epoch(split, noisy_pass):
    """What was added to each image, where nothing else is changed."""
    return by_label(*noisy_pass).astype("float64") - split.images


def test_half_of_the_images_get_noise_of_the_deviation_asked_for():
    images = np.full((400, 6, 5, 3), 0.5, "float32")
    split = Split(images, np.arange(400))
    plain = {"augmentation": (), "noise_stddev": 0.045}
    noise = noise_of_an_epoch(split, passes(split, 1, **plain)[0])
    noisy = (noise != 0).any(axis=(1, 2, 3))
    assert 0.4 < noisy.mean() < 0.6
    assert (noise[noisy] != 0).mean() > 0.99
    assert noise[noisy].std() == pytest.approx(0.045, rel=0.03)
    assert abs(noise[noisy].mean()) < 0.001


def test_noise_follows_from_seed_epoch_and_image_and_stays_in_range():
    split = numbered(40)
    options = {"augmentation": (), "noise_stddev": 0.5}
    epochs = passes(split, 2, **options)
    assert_same(epochs, passes(split, 2, **options))
    first, second = (noise_of_an_epoch(split, epoch) for epoch in epochs)
    both = (first != 0).any(axis=(1, 2, 3)) & (second != 0).any(axis=(1, 2, 3))
    assert both.any()
    assert not np.isclose(first[both], second[both]).all(axis=(1, 2, 3)).any()
    other = noise_of_an_epoch(split, passes(split, 1, **options, seed=1)[0])
    assert not np.array_equal(first, other)
    # An image's noise does not depend on the batch that it is in.
    alone = noise_of_an_epoch(split, passes(split, 1, **options, batch_size=8)[0])
    np.testing.assert_array_equal(first, alone)
    for images, _ in epochs:
        assert images.min() == 0
        assert images.max() == 1


def test_without_noise_nothing_is_drawn_differently():
    split = numbered(12)
    with_noise = passes(split, 1, noise_stddev=0.1)[0]
    assert with_noise[1].tolist() == passes(split, 1)[0][1].tolist()


@pytest.mark.parametrize("stddev", [-0.1, float("inf"), float("nan")])
def test_refuses_a_deviation_that_is_none(stddev):
    with pytest.raises(InputError, match="noise_stddev"):
        training_batches(numbered(8), batch_size=4, seed=0, noise_stddev=stddev)


def test_pairs_are_the_training_batches_and_others_shuffled_independently():
    split = numbered(40)
    arguments = {"batch_size": 4, "seed": 3, "augmentation": ()}
    batches = paired_batches(split, **arguments)
    assert int(batches.cardinality()) == 10
    alone = training_batches(split, **arguments)
    orders = []
    for _ in range(2):
        first, partners, labels = [], [], []
        for (images, others), numbers in batches.as_numpy_iterator():
            first.append(images)
            partners.append(others)
            labels.append(numbers)
        expected = one_pass(alone)
        np.testing.assert_array_equal(np.concatenate(first), expected[0])
        np.testing.assert_array_equal(np.concatenate(labels), expected[1])
        partners = np.concatenate(partners)
        order = [int(np.flatnonzero((split.images == p).all(axis=(1, 2, 3)))[0]) for p in partners]
        assert sorted(order) == list(range(40))
        assert np.mean(np.array(order) == expected[1]) < 0.2
        orders.append(order)
    assert orders[0] != orders[1]
