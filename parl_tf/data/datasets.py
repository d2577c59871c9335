"""Named data sets as float32 pixels in [0, 1], with training, validation and test parts."""

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np

from parl_tf.arguments import check_choice, check_seed
from parl_tf.data.examples import Split
from parl_tf.errors import InputError, MissingFileError, UnreadableFileError

DATASETS = ("digits", "cifar10", "cifar100")

# Data sets in which a mirrored image keeps its class.
MIRRORED_DATASETS = ("cifar10", "cifar100")

# Per-channel mean and standard deviation of the training images, in pixel units of [0, 1].
PIXEL_STATISTICS = {
    "digits": ((0.3051,) * 3, (0.3240,) * 3),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    # With the mean over images of the deviation within each image, which is often used instead.
    "cifar10-image-deviation": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100-image-deviation": ((0.5071, 0.4865, 0.4409), (0.2009, 0.1984, 0.2023)),
}

_DIGITS_TEST_EXAMPLES = 500


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
        name: Its name in `load_dataset`.
        class_names: One name per class, in label order.
        train: Examples to train on.
        validation: Examples split off the original training part; may be empty.
        test: The original test part.
        fingerprint: Hash of the whole content before the split, 16 hexadecimal digits.
        seed: Seed of the split; None if unknown.

    Example:
        >>> dataset = parl_tf.load_dataset("digits")
        >>> dataset.num_classes, dataset.image_shape
        (10, (32, 32, 3))
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    fingerprint: str
    seed: int | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return self.test.images.shape[1:]


def load_dataset(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    train_examples: int | None = None,
    validation_fraction: float = 0.1,
    validation_examples: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a data set into memory.

    Args:
        name: "digits" (handwritten digits included in scikit-learn, resized to 32x32x3),
            "cifar10" or "cifar100" (through tensorflow-datasets, from a prepared folder).
        data_dir: Folder of tensorflow-datasets that holds the prepared data set; None for its
            default. Nothing is downloaded.
        train_examples: Number of training examples; None for all not used for validation.
        validation_fraction: Fraction of the training examples to validate on, in [0, 1).
        validation_examples: Number of these examples, instead of a fraction.
        seed: Determines which training examples are used for validation and for training.

    Returns:
        The data set. The test part is the same for every seed.

    Raises:
        InputError: An unknown name, or a number outside its range.
        MissingFileError: The prepared folder is missing or incomplete.
        UnreadableFileError: A file in it is damaged.

    Example:
        >>> dataset = parl_tf.load_dataset("digits", train_examples=1000)
        >>> len(dataset.train), len(dataset.validation), len(dataset.test)
        (1000, 130, 500)
    """
    check_choice("data set", name, DATASETS)
    if not 0 <= validation_fraction < 1:
        raise InputError(
            f"Expected validation_fraction in [0, 1). Received: {validation_fraction}."
        )
    check_seed(seed)
    if name == "digits":
        train, test, class_names = _load_digits()
    else:
        train, test, class_names = _load_prepared(name, data_dir)
    fingerprint = _fingerprint(train, test)

    num_validation = validation_examples
    if num_validation is None:
        num_validation = round(validation_fraction * len(train))
    available = len(train) - num_validation
    if num_validation < 0 or available < 1:
        raise InputError(
            f"Expected validation to leave some of {len(train)} examples to train on. "
            f"Received: {validation_fraction if validation_examples is None else num_validation}."
        )
    if train_examples is None:
        train_examples = available
    elif not 1 <= train_examples <= available:
        raise InputError(
            f"Expected train_examples from 1 to {available}, as {num_validation} examples of "
            f"{name} are used for validation. Received: {train_examples}."
        )
    order = np.random.default_rng(seed).permutation(len(train))
    validation = train.take(np.sort(order[:num_validation]))
    chosen = order[num_validation : num_validation + train_examples]
    chosen_part = train.take(np.sort(chosen))
    return Dataset(name, class_names, chosen_part, validation, test, fingerprint, seed)


def check_dataset(dataset: object) -> None:
    """Raises InputError unless an object is a `Dataset`."""
    if not isinstance(dataset, Dataset):
        raise InputError(
            "Expected a Dataset, as parl_tf.load_dataset returns it. Received: an object of type "
            f"{type(dataset).__name__}. To train on other data, compile an ensemble such as "
            "parl_tf.PARL(members) and call its fit(parl_tf.training_batches(...))."
        )


def _load_digits() -> tuple[Split, Split, tuple[str, ...]]:
    """The 1,797 digits of scikit-learn; the 500 test images are always the same."""
    import tensorflow as tf
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = (bunch.images / 16.0).astype("float32")[..., np.newaxis]
    gray = np.clip(tf.image.resize(small, (32, 32)).numpy(), 0.0, 1.0)
    every = Split(np.repeat(gray, 3, axis=-1), bunch.target.astype("int64"))
    order = np.random.default_rng(0).permutation(len(every))
    test, train = np.split(order, [_DIGITS_TEST_EXAMPLES])
    return every.take(train), every.take(test), tuple(str(name) for name in bunch.target_names)


def _load_prepared(
    name: str, data_dir: str | os.PathLike | None
) -> tuple[Split, Split, tuple[str, ...]]:
    """Reads a data set prepared by tensorflow-datasets."""
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    try:
        builder = tfds.builder(name, data_dir=data_dir)
        train, test = (_read_split(builder, part) for part in ("train", "test"))
    except (tf.errors.DataLossError, ParseError, UnicodeDecodeError) as error:
        raise UnreadableFileError(f"The prepared {name} is damaged: {error}") from error
    except (AssertionError, KeyError, FileNotFoundError, tf.errors.NotFoundError) as error:
        folder = os.path.join(os.fspath(data_dir or tfds.core.constants.DATA_DIR), name)
        raise MissingFileError(
            f"No prepared {name} in {folder} (a version folder with dataset_info.json, "
            "features.json and the .tfrecord files). Either name the folder that holds "
            f"'{name}/' with data_dir (--data-dir), or let tensorflow-datasets download it: "
            f"python -c \"import tensorflow_datasets as t; t.load('{name}', "
            f'data_dir={os.fspath(data_dir) if data_dir else None!r})"'
        ) from error
    return train, test, tuple(builder.info.features["label"].names)


def _read_split(builder: Any, part: str) -> Split:
    """One part of a prepared data set, in the order of its files."""
    import tensorflow_datasets as tfds

    # With several readers the order would depend on the number of files read at once.
    options = tfds.ReadConfig(interleave_cycle_length=1)
    examples = builder.as_dataset(split=part, batch_size=-1, read_config=options)
    expected = builder.info.splits[part].num_examples
    if len(examples["label"]) != expected:
        raise UnreadableFileError(
            f"The prepared {builder.name} is damaged: {len(examples['label'])} of {expected} "
            f"examples in its {part} part."
        )
    images = examples["image"].numpy().astype("float32") / np.float32(255)
    return Split(images, examples["label"].numpy().astype("int64"))


def _fingerprint(*splits: Split) -> str:
    """Hash of the content of splits."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(repr(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels).data)
    return digest.hexdigest()[:16]
