import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import examples, logits_loss, plain_network

from parl_tf.data.batches import paired_batches, shift_and_flip, training_batches
from parl_tf.data.examples import Split
from parl_tf.errors import InputError


def numbered(count, shape=(6, 5, 3)):
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


def test_every_epoch_has_all_examples_in_an_order_and_augmentation_of_its_own():
    epochs = passes(numbered(40), 3)
    for _, labels in epochs:
        assert sorted(labels) == list(range(40))
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert epochs[first][1].tolist() != epochs[second][1].tolist()
        assert share_of_equal_images(epochs[first], epochs[second]) < 0.1


def test_a_repeated_run_is_identical_and_another_seed_is_not():
    split = numbered(40)
    epochs = passes(split, 2)
    assert_same(epochs, passes(split, 2))
    for found, other in zip(epochs, passes(split, 2, seed=1), strict=True):
        assert found[1].tolist() != other[1].tolist()
        assert share_of_equal_images(found, other) < 0.1


def test_global_generators_do_not_matter():
    def disturbed_run(seed):
        keras.utils.set_random_seed(seed)
        batches = training_batches(numbered(20), batch_size=4, seed=0)
        epochs = [one_pass(batches)]
        tf.random.set_seed(seed + 1)
        np.random.seed(seed + 2)
        return [*epochs, one_pass(batches)]

    assert_same(disturbed_run(0), disturbed_run(10))


@pytest.mark.parametrize("batch_size", [1, 5, 20])
def test_an_epoch_does_not_depend_on_the_batch_size(batch_size):
    split = numbered(20)
    assert_same(passes(split, 2), passes(split, 2, batch_size=batch_size))


def test_what_an_image_gets_does_not_depend_on_the_batch_it_is_left_in():
    split = numbered(20)
    (whole, order), (part, labels) = (
        passes(split, 1, batch_size=batch_size)[0] for batch_size in (20, 7)
    )
    assert len(labels) == 14
    np.testing.assert_array_equal(part, by_label(whole, order)[labels])


@pytest.mark.parametrize("epoch", [1, 3])
def test_initial_epoch_continues_where_a_run_left_off(epoch):
    split = numbered(20)
    noise = {"noise_stddev": 0.1}
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


def test_shift_and_flip_against_plain_loops():
    max_shift, (height, width) = 2, (4, 6)
    cases = [(row, column, flip) for row in range(5) for column in range(5) for flip in (0, 1)]
    images = numbered(len(cases), (height, width, 2)).images
    expected = np.zeros_like(images)
    for index, (row, column, flip) in enumerate(cases):
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + row - max_shift, x + column - max_shift
                if 0 <= from_y < height and 0 <= from_x < width:
                    to_x = width - 1 - x if flip else x
                    expected[index, y, to_x] = images[index, from_y, from_x]
    rows, columns, flips = np.array(cases).T
    shifts = tf.constant(np.stack([rows, columns], axis=1), tf.int32)
    found = shift_and_flip(tf.constant(images), shifts, tf.constant(flips == 1), max_shift)
    np.testing.assert_array_equal(found, expected)


def test_without_shift_and_flip_images_stay_as_they_are():
    split = numbered(20)
    for images, labels in passes(split, 2, max_shift=0, flip=False):
        np.testing.assert_array_equal(images, split.images[labels])


def test_half_of_the_images_are_flipped_and_each_epoch_chooses_anew():
    split = numbered(2000, (1, 2, 1))
    flipped = []
    for epoch in passes(split, 2, batch_size=100, max_shift=0):
        images = by_label(*epoch)
        mirrored = (images == split.images[:, :, ::-1]).all(axis=(1, 2, 3))
        unchanged = (images == split.images).all(axis=(1, 2, 3))
        assert (mirrored ^ unchanged).all()
        flipped.append(mirrored)
    first, second = flipped
    assert first.mean() == pytest.approx(0.5, abs=0.05)
    assert second.mean() == pytest.approx(0.5, abs=0.05)
    assert (first & second).mean() == pytest.approx(0.25, abs=0.05)


def test_every_shift_in_range_is_about_as_frequent():
    dot = np.zeros((2500, 7, 7, 1), "float32")
    dot[:, 3, 3] = 1
    ((images, _),) = passes(Split(dot, np.arange(2500)), 1, batch_size=100, max_shift=2, flip=False)
    frequency = images.sum(axis=(0, 3))
    expected = np.zeros((7, 7))
    expected[1:6, 1:6] = 100
    np.testing.assert_allclose(frequency, expected, atol=40)
    np.testing.assert_array_equal(frequency == 0, expected == 0)


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
    assert images == tf.TensorSpec((4, 6, 5, 3), tf.float32)
    assert labels == tf.TensorSpec((4,), tf.int64)
    ((augmented, _),) = passes(split, 1)
    assert augmented.min() == 0  # the black gap of a shift
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
        ({"max_shift": -1}, "max_shift of at least 0. Received: -1"),
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
    plain = {"max_shift": 0, "flip": False, "noise_stddev": 0.045}
    noise = noise_of_an_epoch(split, passes(split, 1, **plain)[0])
    noisy = (noise != 0).any(axis=(1, 2, 3))
    assert 0.4 < noisy.mean() < 0.6
    assert (noise[noisy] != 0).mean() > 0.99
    assert noise[noisy].std() == pytest.approx(0.045, rel=0.03)
    assert abs(noise[noisy].mean()) < 0.001


def test_noise_follows_from_seed_epoch_and_image_and_stays_in_range():
    split = numbered(40)
    options = {"max_shift": 0, "flip": False, "noise_stddev": 0.5}
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
    arguments = {"batch_size": 4, "seed": 3, "max_shift": 0, "flip": False}
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
