import types

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

from parl_tf.data.datasets import PIXEL_STATISTICS, load_dataset
from parl_tf.data.examples import Split, check_examples
from parl_tf.errors import InputError, MissingFileError

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def contents(split):
    """The images of a split, each as its bytes."""
    return [image.tobytes() for image in split.images]


def assert_same(first, second):
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def uncut_digits():
    return load_dataset("digits", validation_fraction=0)


def test_digits_have_the_promised_types_and_ranges(digits):
    assert digits.name == "digits"
    assert digits.class_names == tuple("0123456789")
    assert digits.num_classes == 10
    assert digits.image_shape == (32, 32, 3)
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1167, 130, 500)
    for part in (digits.train, digits.validation, digits.test):
        assert part.images.dtype == "float32"
        assert part.labels.dtype == "int64"
        assert part.images.shape == (len(part), 32, 32, 3)
        assert part.images.min() == 0
        assert part.images.max() == 1
        assert set(part.labels) == set(range(10))


def test_labels_belong_to_their_images(uncut_digits):
    train, test = (
        part.images[..., 0].reshape(len(part), -1)
        for part in (uncut_digits.train, uncut_digits.test)
    )
    distances = (train**2).sum(axis=1) - 2 * test @ train.T
    nearest = uncut_digits.train.labels[distances.argmin(axis=1)]
    assert np.mean(nearest == uncut_digits.test.labels) > 0.95


@pytest.mark.parametrize("arguments", [{"seed": 1}, {"validation_fraction": 0.5}])
def test_test_part_does_not_depend_on_the_cut(digits, arguments):
    other = load_dataset("digits", **arguments)
    assert_same(other.test, digits.test)
    assert other.fingerprint == digits.fingerprint


def test_validation_is_cut_from_the_training_part(digits, uncut_digits):
    train, validation, test = (
        set(contents(part)) for part in (digits.train, digits.validation, digits.test)
    )
    assert not train & validation
    assert not test & (train | validation)
    assert train | validation == set(contents(uncut_digits.train))


def test_the_seed_decides_the_cut(digits):
    again, other = load_dataset("digits", seed=0), load_dataset("digits", seed=1)
    assert_same(again.validation, digits.validation)
    assert_same(again.train, digits.train)
    assert len(other.validation) == len(digits.validation)
    shared = set(contents(other.validation)) & set(contents(digits.validation))
    assert len(shared) < len(digits.validation) / 2


def test_validation_may_be_empty(uncut_digits):
    assert len(uncut_digits.validation) == 0
    assert uncut_digits.validation.images.shape == (0, 32, 32, 3)
    assert len(uncut_digits.train) == 1297


def test_train_examples_are_chosen_by_the_seed_and_leave_validation_alone(digits):
    few = load_dataset("digits", train_examples=100)
    other = load_dataset("digits", train_examples=100, seed=1)
    assert len(few.train) == len(set(contents(few.train))) == 100
    assert set(contents(few.train)) < set(contents(digits.train))
    assert set(contents(few.train)) != set(contents(other.train))
    assert_same(few.validation, digits.validation)
    assert len(load_dataset("digits", train_examples=1167).train) == 1167


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_examples": 0}, "train_examples from 1 to 1167.*Received: 0"),
        ({"train_examples": 1168}, "train_examples from 1 to 1167.*130 .*Received: 1168"),
        ({"validation_fraction": 1}, r"validation_fraction in \[0, 1\). Received: 1"),
        ({"validation_fraction": -0.1}, "Received: -0.1"),
        ({"validation_fraction": float("nan")}, "Received: nan"),
        ({"validation_fraction": 0.9999}, "0.9999"),  # rounds to all of the training part
        ({"seed": -1}, "seed.*Received: -1"),
    ],
)
def test_refuses_numbers_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message):
        load_dataset("digits", **arguments)


@pytest.mark.parametrize("name", ["cifar1O", "cifar-10"])
def test_unknown_name_comes_with_a_near_match(name):
    with pytest.raises(InputError, match=f"Did you mean cifar10.*Received: '{name}'"):
        load_dataset(name)


@pytest.mark.parametrize("changed", ["images", "target"])
def test_fingerprint_tells_content_apart(digits, changed, monkeypatch):
    assert load_dataset("digits").fingerprint == digits.fingerprint
    bunch = sklearn.datasets.load_digits()
    bunch[changed].flat[-1] += 1
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: bunch)
    assert load_dataset("digits").fingerprint != digits.fingerprint


def test_statistics_of_digits_are_their_own(uncut_digits):
    mean, deviation = PIXEL_STATISTICS["digits"]
    pixels = uncut_digits.train.images.astype("float64")
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)), atol=5e-4)
    np.testing.assert_allclose(deviation, pixels.std(axis=(0, 1, 2)), atol=5e-4)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_data_names_the_folder_and_the_remedy(name, tmp_path):
    with pytest.raises(MissingFileError) as caught:
        load_dataset(name, data_dir=tmp_path)
    message = str(caught.value)
    assert f"No prepared {name} in {tmp_path / name} " in message
    assert "data_dir (--data-dir)" in message
    assert f"t.load('{name}', data_dir='{tmp_path}')" in message
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded or made


def prepare_cifar100(data_dir, *, train=(7, 5), test=(4,)):
    """Writes a small CIFAR-100 as tensorflow-datasets does, and returns what is in it.

    Args:
        data_dir: Where to write.
        train: Examples in each file of the training part.
        test: The same of the test part.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder("cifar100", data_dir=data_dir)
    info = builder.info
    info.features["label"].names = [f"fine {label}" for label in range(100)]
    info.features["coarse_label"].names = [f"coarse {label}" for label in range(20)]
    folder = data_dir / "cifar100" / str(builder.version)
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    splits, written = [], {}
    for part, shards in (("train", train), ("test", test)):
        files = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name="cifar100", split=part, filetype_suffix="tfrecord"
        )
        images = generator.integers(256, size=(sum(shards), 32, 32, 3), dtype="uint8")
        labels = 99 - np.arange(len(images))
        examples = iter(range(len(images)))
        for shard, count in enumerate(shards):
            path = files.sharded_filepath(shard_index=shard, num_shards=len(shards))
            with tf.io.TFRecordWriter(str(path)) as writer:
                for index in (next(examples) for _ in range(count)):
                    example = {
                        "id": f"{part}_{index:05d}",
                        "image": images[index],
                        "label": labels[index],
                        "coarse_label": index % 20,
                    }
                    encoded = info.features.encode_example(example)
                    writer.write(info.features.serialize_example(encoded))
        splits.append(
            tfds.core.SplitInfo(
                name=part, shard_lengths=list(shards), num_bytes=0, filename_template=files
            )
        )
        written[part] = types.SimpleNamespace(images=images, labels=labels)
    info.set_splits(tfds.core.SplitDict(splits))
    info.write_to_directory(folder)
    return folder, written


def test_a_prepared_cifar100_is_read_to_the_pixel_with_its_fine_labels(tmp_path):
    _, written = prepare_cifar100(tmp_path)
    dataset = load_dataset("cifar100", data_dir=tmp_path, validation_fraction=0)
    assert dataset.class_names == tuple(f"fine {label}" for label in range(100))
    for part in ("train", "test"):
        found, expected = getattr(dataset, part), written[part]
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.images, expected.images / np.float32(255))
        assert (found.images.dtype, found.labels.dtype) == ("float32", "int64")


@pytest.mark.parametrize("missing", ["dataset_info.json", "cifar100-test.tfrecord-00000-of-00001"])
def test_an_incomplete_folder_is_named(missing, tmp_path):
    folder, _ = prepare_cifar100(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(MissingFileError) as caught:
        load_dataset("cifar100", data_dir=tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "cifar100") in message
    assert "dataset_info.json" in message
    assert "--data-dir" in message


@pytest.mark.slow
@pytest.mark.real_data
def test_cifar10_is_the_known_one(cifar10_dir):
    dataset = load_dataset("cifar10", data_dir=cifar10_dir, validation_fraction=0)
    assert (len(dataset.train), len(dataset.test)) == (50_000, 10_000)
    assert dataset.class_names == CIFAR10_CLASSES
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), [5_000] * 10)
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), [1_000] * 10)
    assert (dataset.train.images.min(), dataset.train.images.max()) == (0, 1)
    mean, deviation = PIXEL_STATISTICS["cifar10"]
    channels = [dataset.train.images[..., channel] for channel in range(3)]
    # A copy whose images went through JPEG differs by as much, as TensorFlow decodes it.
    np.testing.assert_allclose([c.mean(dtype="float64") for c in channels], mean, atol=6e-3)
    np.testing.assert_allclose([c.std(dtype="float64") for c in channels], deviation, atol=6e-3)
    same_mean, by_image = PIXEL_STATISTICS["cifar10-image-deviation"]
    assert same_mean == mean
    found = [np.mean(c.std(axis=(1, 2), dtype="float64", ddof=1)) for c in channels]
    np.testing.assert_allclose(found, by_image, atol=6e-3)


def test_sample_is_fixed_by_its_seed_and_draws_different_examples(digits):
    sample = digits.test.sample(50, seed=3)
    assert len(sample) == len(set(contents(sample))) == 50
    known = dict(zip(contents(digits.test), digits.test.labels, strict=True))
    assert [known[content] for content in contents(sample)] == sample.labels.tolist()
    assert_same(sample, digits.test.sample(50, seed=3))
    assert contents(sample) != contents(digits.test.sample(50, seed=4))


def test_sample_is_everything_where_there_are_fewer(digits):
    assert_same(digits.test.sample(501, seed=3), digits.test)


def test_good_examples_are_brought_to_the_types_of_a_split():
    images = np.eye(4).reshape(2, 2, 2, 2).tolist()
    split = check_examples(images, np.array([2, 0], "uint8"), 3)
    assert isinstance(split, Split)
    assert (split.images.dtype, split.labels.dtype) == ("float32", "int64")
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, [2, 0])


IMAGES = np.full((2, 4, 4, 3), 0.5)
LABELS = np.array([0, 2])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES * 510, r"pixels in \[0, 1\]. Received: from 255.0 to 255.0. Divide by 255 first"),
        ((IMAGES * 255).astype("uint8"), "Divide by 255 first"),
        (IMAGES * 1000, "from 500.0 to 500.0.$"),
        (IMAGES - 1, "from -0.5 to -0.5.$"),
        (np.where(np.arange(3) == 1, np.nan, IMAGES), "finite pixels"),
        (np.where(np.arange(3) == 1, np.inf, IMAGES), "finite pixels"),
        (np.where(np.arange(3) == 1, -np.inf, IMAGES), "finite pixels"),
        (IMAGES[0], r"shape \(n, height, width, channels\).*Received: shape \(4, 4, 3\)"),
        (IMAGES[..., None], r"Received: shape \(2, 4, 4, 3, 1\)"),
        (IMAGES[:0], r"n > 0. Received: shape \(0, 4, 4, 3\)"),
        (IMAGES.astype(str), "numbers.*Received.*type <U"),
        (IMAGES > 0, "numbers.*Received.*type bool"),
    ],
)
def test_refuses_bad_images(images, message):
    with pytest.raises(InputError, match=message):
        check_examples(images, LABELS, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "labels from 0 to 2. Received: from 0 to 3"),
        ([-1, 2], "labels from 0 to 2. Received: from -1 to 2"),
        ([0.0, 2.0], "2 integer labels.*Received.*type float64"),
        ([0], r"2 integer labels, one per image. Received: shape \(1,\)"),
        ([0, 1, 2], r"Received: shape \(3,\)"),
        ([[1, 0, 0], [0, 0, 1]], r"Received: shape \(2, 3\)"),
        ([], r"Received: shape \(0,\)"),
    ],
)
def test_refuses_bad_labels(labels, message):
    with pytest.raises(InputError, match=message):
        check_examples(IMAGES, labels, 3)
