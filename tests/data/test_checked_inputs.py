"""What no training may swallow, on every way that images come into one, with and without XLA."""

import contextlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.marks import slow_except
from harness.networks import examples, logits_loss, plain_network

import parl_tf
from parl_tf.data.batch_checks import BatchCheck
from parl_tf.data.batches import paired_batches, training_batches
from parl_tf.data.examples import Split, check_images
from parl_tf.errors import DivergedError, InputError
from parl_tf.training.divergence import StopWhenDiverged

BATCH = 4
OFTEN_XLA = pytest.mark.parametrize(
    "jit_compile",
    [pytest.param(False, id="no XLA"), pytest.param(True, id="XLA", marks=pytest.mark.slow)],
)


def ensemble_of(method=parl_tf.Ensemble, compiled=(), **options):
    ensemble = method([plain_network(0), plain_network(1)], **options)
    given = {"optimizer": keras.optimizers.SGD(0.01), "loss": logits_loss(), "jit_compile": False}
    ensemble.compile(**{**given, **dict(compiled)})
    return ensemble


class Batches(keras.utils.PyDataset):
    """Arrays in batches, and a count of what was asked of them."""

    def __init__(self, *arrays, **options):
        super().__init__(**options)
        self.arrays = arrays
        self.read, self.begun, self.ended = [], 0, 0

    def __len__(self):
        return len(self.arrays[0]) // BATCH

    def __getitem__(self, index):
        self.read.append(index)
        part = slice(BATCH * index, BATCH * (index + 1))
        return tuple(array[part] for array in self.arrays)

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.ended += 1


def batches_of(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)


class Tensor:
    """What PyTorch's tensors on a GPU are to others: not arrays, before they are copied."""

    def __init__(self, array):
        self.array = array

    def __array__(self, *arguments, **options):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def detach(self):
        return self

    def cpu(self):
        return self.array


class DataLoader:
    """What is known here of PyTorch's, which is not installed: its names, and how it is read."""

    def __init__(self, *arrays, sized=True):
        self.batches = Batches(*arrays)
        self.passes = 0
        self.dataset = self.batches if sized else iter(())

    def __len__(self):
        return len(self.dataset)

    def __iter__(self):
        self.passes += 1
        for index in range(len(self.batches)):
            yield [Tensor(array) for array in self.batches[index]]


class MapDataset(DataLoader):
    """What is known here of Grain's, which is not installed."""

    def __iter__(self):
        self.passes += 1
        for index in range(len(self.batches)):
            yield tuple(self.batches[index])


DataLoader.__module__ = "torch.utils.data.dataloader"
MapDataset.__module__ = "grain._src.python.dataset.dataset"

FEEDS = {
    "arrays": lambda *arrays: {
        **dict(zip(("x", "y", "sample_weight"), arrays, strict=False)),
        "batch_size": BATCH,
        "shuffle": False,
    },
    "tensors": lambda images, labels: {
        "x": tf.constant(images),
        "y": tf.constant(labels),
        "batch_size": BATCH,
        "shuffle": False,
    },
    "data set": lambda *arrays: {"x": batches_of(*arrays), "shuffle": False},
    "generator": lambda *arrays: {"x": (batch for batch in Batches(*arrays)), "shuffle": False},
    "PyDataset": lambda *arrays: {"x": Batches(*arrays), "shuffle": False},
    "PyDataset of two workers": lambda *arrays: {
        "x": Batches(*arrays, workers=2),
        "shuffle": False,
    },
    "PyTorch": lambda *arrays: {"x": DataLoader(*arrays), "shuffle": False},
    "Grain": lambda *arrays: {"x": MapDataset(*arrays, sized=False), "shuffle": False},
}
FED = pytest.mark.parametrize("feed", FEEDS)


def spoiled(fault, count=3 * BATCH):
    """Images of which the last batch cannot be used, or such labels, and what is to be said."""
    images, labels = examples(count)
    images[-1, 0, 0, :2], labels[-2:] = (0, 1), (0, 3)
    last = slice(-BATCH, None)
    if fault == "0 to 255":
        images[last] *= 255
        expected = "Expected pixels in [0, 1]. Received: from 0.0 to 255.0. Divide by 255 first."
    elif fault == "-1 to 1":
        images[last] = 2 * images[last] - 1
        expected = "Expected pixels in [0, 1]. Received: from -1.0 to 1.0."
    elif fault in ("nan", "inf"):
        images[-2, 3, 4, 1] = float(fault)
        expected = "Expected finite pixels. Received: NaN or infinite values."
    else:
        labels = 1 + np.arange(count) % 4
        expected = "Expected labels from 0 to 3. Received: from 1 to 4."
    return images, labels, expected


FAULTS = ["0 to 255", "-1 to 1", "nan", "labels from 1"]


@pytest.mark.parametrize("feed", slow_except(FEEDS, "data set", "PyTorch"))
@pytest.mark.parametrize(
    "fault",
    [
        "nan",
        pytest.param("0 to 255", marks=pytest.mark.slow),
        pytest.param("labels from 1", marks=pytest.mark.slow),
    ],
)
def test_fit_refuses_under_xla_what_it_refuses_without(feed, fault):
    images, labels, expected = spoiled(fault)
    ensemble = ensemble_of(compiled={"jit_compile": True})
    with pytest.raises(InputError) as refusal:
        ensemble.fit(**FEEDS[feed](images, labels), verbose=0)
    assert str(refusal.value) == expected
    for variable in ensemble.trainable_variables:
        assert np.isfinite(variable.numpy()).all()


@FED
def test_fit_says_the_same_without_xla(feed):
    images, labels, expected = spoiled("0 to 255", count=BATCH)
    with pytest.raises(InputError, match=re.escape(expected)):
        check_images(images)
    with pytest.raises(InputError) as refusal:
        ensemble_of().fit(**FEEDS[feed](images, labels), verbose=0)
    assert str(refusal.value) == expected


@pytest.mark.parametrize("mode", [{"steps_per_execution": 2}, {"run_eagerly": True}], ids=str)
def test_whatever_the_mode(mode):
    images, labels, expected = spoiled("0 to 255")
    with pytest.raises(InputError, match=re.escape(expected)):
        ensemble_of(compiled=mode).fit(batches_of(images, labels), verbose=0, shuffle=False)


@OFTEN_XLA
@pytest.mark.parametrize("fault", FAULTS)
def test_adversarial_training_does_not_project_what_is_no_image(fault, jit_compile):
    images, labels, expected = spoiled(fault, count=BATCH)
    options = {"adversarial_training": {"num_steps": 1}, "compiled": {"jit_compile": jit_compile}}
    with pytest.raises(InputError, match=re.escape(expected)):
        ensemble_of(**options).fit(batches_of(images, labels), verbose=0, shuffle=False)


@OFTEN_XLA
@pytest.mark.parametrize("feed", ["arrays", "data set", "generator", "PyDataset", "PyTorch"])
def test_evaluation_and_validation_are_checked_alike(feed, jit_compile):
    images, labels, expected = spoiled("0 to 255", count=BATCH)
    options = {"jit_compile": jit_compile}

    def given():
        fed = FEEDS[feed](images, labels)
        del fed["shuffle"]
        return fed

    with pytest.raises(InputError, match=re.escape(expected)):
        ensemble_of(compiled=options).evaluate(**given(), verbose=0)
    fed = given()
    validation = (fed["x"], fed["y"]) if "y" in fed else fed["x"]
    with pytest.raises(InputError, match=re.escape(expected)):
        ensemble_of(compiled=options).fit(
            *examples(BATCH), validation_data=validation, verbose=0, batch_size=BATCH
        )


@OFTEN_XLA
@pytest.mark.parametrize("step", ["train_on_batch", "test_on_batch"])
@pytest.mark.parametrize("fault", FAULTS)
def test_single_batches_are_checked(step, fault, jit_compile):
    images, labels, expected = spoiled(fault, count=BATCH)
    ensemble = ensemble_of(compiled={"jit_compile": jit_compile})
    for convert in (np.asarray, tf.constant):
        with pytest.raises(InputError) as refusal:
            getattr(ensemble, step)(convert(images), convert(labels))
        assert str(refusal.value) == expected


@OFTEN_XLA
def test_partners_are_checked_too(jit_compile):
    images, labels, expected = spoiled("0 to 255", count=BATCH)
    ensemble = ensemble_of(parl_tf.DVERGE, {"jit_compile": jit_compile}, num_steps=1)
    clean, _ = examples(BATCH)
    pairs = tf.data.Dataset.from_tensors(((clean, images), labels))
    with pytest.raises(InputError, match=re.escape(expected)):
        ensemble.fit(pairs, verbose=0, shuffle=False)
    with pytest.raises(InputError, match=re.escape(expected)):
        ensemble.train_on_batch((clean, images), labels)


@FED
def test_integer_pixels_are_refused_with_the_way_out(feed):
    images, labels = np.zeros((BATCH, 8, 8, 3), "uint8"), np.zeros(BATCH, "int64")
    with pytest.raises(InputError, match="Received: uint8. Divide by 255 first."):
        ensemble_of().fit(**FEEDS[feed](images, labels), verbose=0)


@pytest.mark.parametrize("feed", ["arrays", "data set", "generator", "PyDataset", "PyTorch"])
def test_sample_weights_that_are_not_finite_are_refused(feed):
    images, labels = examples(BATCH)
    weights = np.array([1, 1, np.nan, 1], "float32")
    with pytest.raises(InputError, match="Expected finite sample weights"):
        ensemble_of(compiled={"jit_compile": True}).fit(
            **FEEDS[feed](images, labels, weights), verbose=0
        )


def in_a_graph(check, batch):
    """Whether a batch passes the assertions, as in a training loop of one's own."""

    @tf.function
    def step(*parts):
        check.assert_valid(parts)

    try:
        step(*map(tf.constant, batch))
    except tf.errors.InvalidArgumentError:
        return False
    return True


def in_python(check, batch):
    try:
        check.check(batch)
    except InputError:
        return False
    return True


@pytest.mark.parametrize(
    ("pixel", "passes"),
    [(1.0005, True), (-0.0005, True), (1.002, False), (-0.002, False), (np.nan, False)],
)
def test_rounding_past_the_ends_passes_everywhere_and_no_more(pixel, passes):
    images, labels = examples(BATCH)
    images[1, 2, 3, 0] = pixel
    check = BatchCheck(4)
    assert in_python(check, (images, labels)) == in_a_graph(check, (images, labels)) == passes


@pytest.mark.parametrize(
    ("labels", "passes"),
    [
        ([0, 3], True),
        ([[0], [3]], True),
        ([0.0, 3.0], True),
        ([True, False], True),
        ([[0.1, 0.2, 0.3, 0.4]] * 2, True),
        ([[0, 0, 1, 0]] * 2, True),
        ([-1, 3], False),
        ([[0], [4]], False),
        ([0.0, 4.0], False),
        ([np.nan, 0.0], False),
        ([[0.1, 0.2, np.nan, 0.4]] * 2, False),
    ],
)
@pytest.mark.parametrize("ignored", [None, -1])
def test_labels_of_every_kind_are_taken_as_class_numbers_takes_them(labels, passes, ignored):
    images, labels = examples(2)[0], np.array(labels)
    check = BatchCheck(4, ignored_label=ignored)
    passes = passes or (ignored == -1 and labels.min() == -1)
    assert in_python(check, (images, labels)) == in_a_graph(check, (images, labels)) == passes


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "images and labels. Received: no labels"),
        (np.zeros((BATCH, 5)), r"one-hot \(n, 4\). Received: shape \(4, 5\)"),
        (np.array(["cat"] * BATCH), "labels as numbers. Received: string"),
    ],
)
def test_labels_that_are_none_are_refused(labels, message):
    images, _ = examples(BATCH)
    with pytest.raises(InputError, match=message):
        ensemble_of().fit(images, labels, verbose=0)


def test_a_label_that_the_loss_ignores_is_no_fault():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    images, labels = examples(BATCH)
    labels[1] = -1
    ensemble = ensemble_of(compiled={"loss": loss})
    fitted = ensemble.fit(batches_of(images, labels), verbose=0, shuffle=False)
    assert np.isfinite(fitted.history["loss"])
    assert np.isfinite(ensemble.train_on_batch(images, labels)[0])


def test_a_loop_of_ones_own_is_told_the_range_and_the_way_out():
    images, labels, _ = spoiled("0 to 255", count=BATCH)
    ensemble = ensemble_of()
    ensemble.optimizer.build(ensemble.trainable_variables)
    with pytest.raises(tf.errors.InvalidArgumentError) as refusal:
        tf.function(ensemble.train_step)((tf.constant(images), tf.constant(labels)))
    assert "Expected finite pixels in [0, 1]. Received: from] [0] [to] [255]" in str(refusal.value)
    assert "Divide pixels from 0 to 255 by 255 first." in str(refusal.value)


@pytest.mark.parametrize("options", [{}, {"workers": 2}])
def test_a_py_dataset_is_read_as_keras_reads_it(options):
    images, labels = examples(3 * BATCH)
    ours, theirs = Batches(images, labels, **options), Batches(images, labels, **options)
    ensemble_of().fit(ours, epochs=2, verbose=0, shuffle=False)
    alone = plain_network(0)
    alone.compile("sgd", logits_loss(), jit_compile=False)
    alone.fit(theirs, epochs=2, verbose=0, shuffle=False)
    assert (sorted(ours.read), ours.begun, ours.ended) == (
        sorted(theirs.read),
        theirs.begun,
        theirs.ended,
    )
    assert ours.begun == 2


def test_not_a_batch_more_is_read_than_keras_reads():
    images, labels = examples(BATCH)
    alone = plain_network(0)
    alone.compile("sgd", logits_loss(), jit_compile=False)
    counts = []
    for model in (ensemble_of(), alone):
        read = []

        def endless(read=read):
            while True:
                read.append(len(read))
                yield images, labels

        spec = (tf.TensorSpec((BATCH, 8, 8, 3)), tf.TensorSpec((BATCH,), tf.int64))
        batches = tf.data.Dataset.from_generator(endless, output_signature=spec)
        # Or TensorFlow reads ahead, in a thread of its own.
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        batches = batches.with_options(options)
        model.fit(batches, epochs=2, steps_per_epoch=3, verbose=0, shuffle=False)
        counts.append(len(read))
    assert counts[0] == counts[1] <= 7


@pytest.mark.parametrize(
    ("kind", "sized"),
    [
        (DataLoader, True),
        (MapDataset, False),
        pytest.param(DataLoader, False, marks=pytest.mark.slow),
        pytest.param(MapDataset, True, marks=pytest.mark.slow),
    ],
)
def test_data_sets_of_other_libraries_train_as_the_same_batches_of_tensorflow(kind, sized):
    images, labels = examples(3 * BATCH)
    validation = kind(*examples(2 * BATCH, 5), sized=sized)
    batches = kind(images, labels, sized=sized)
    ours, theirs = ensemble_of(), ensemble_of()
    # Without a length Keras says once that the data ended.
    ends = contextlib.nullcontext() if sized else pytest.warns(UserWarning, match="ran out of data")
    with ends:
        found = ours.fit(
            batches, epochs=3, validation_data=validation, verbose=0, shuffle=False
        ).history
        measured = ours.evaluate(validation, verbose=0)
    expected = theirs.fit(
        batches_of(images, labels),
        epochs=3,
        validation_data=batches_of(*examples(2 * BATCH, 5)),
        verbose=0,
        shuffle=False,
    ).history
    assert found == expected
    assert measured[0] == expected["val_loss"][-1]
    # One pass an epoch, and one to learn what the batches are.
    assert (batches.passes, validation.passes) == (4, 4 + 2)


def test_an_epoch_of_so_many_steps_goes_on_where_the_last_one_ended():
    arrays = examples(3 * BATCH)
    ours, theirs = ensemble_of(), ensemble_of()
    for ensemble, batches in ((ours, DataLoader(*arrays)), (theirs, batches_of(*arrays).repeat())):
        options = {"epochs": 3, "steps_per_epoch": 1, "verbose": 0, "shuffle": False}
        ensemble.history_of_it = ensemble.fit(batches, **options).history
    assert ours.history_of_it == theirs.history_of_it


def test_pairs_of_other_libraries_are_pairs():
    class Pairs(DataLoader):
        def __iter__(self):
            yield [[Tensor(images), Tensor(partners)], Tensor(labels)]

    images, labels = examples(BATCH)
    partners = images[::-1].copy()
    ensemble = ensemble_of(parl_tf.DVERGE, num_steps=1)
    ensemble.fit(Pairs(images, labels), verbose=0, shuffle=False)
    partners[0, 0, 0, 0] = 7
    with pytest.raises(InputError, match=r"Received: from 0\.\d+ to 7\.0"):
        ensemble.fit(Pairs(images, labels), verbose=0, shuffle=False)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "Received: no batch"),
        ([(np.zeros((8, 8, 3), "float32"), np.int64(0))], "Received: single examples"),
        ([{"image": np.zeros((BATCH, 8, 8, 3)), "label": np.zeros(BATCH)}], "a dictionary"),
        ([np.zeros((BATCH, 8, 8, 3), "float32")], "no labels"),
        ([examples(4), (np.zeros((4, 192), "float32"), np.zeros(4))], "batches of one kind"),
    ],
)
def test_what_is_no_batch_of_another_library_is_refused(batches, message):
    class Given(MapDataset):
        def __iter__(self):
            return iter(batches)

    with pytest.raises(InputError, match=message):
        ensemble_of().fit(Given(*examples(BATCH), sized=False), verbose=0, shuffle=False)


@OFTEN_XLA
@pytest.mark.parametrize("pairs", slow_except([False, True], False))
def test_a_checked_training_is_bit_for_bit_that_of_its_batches(pairs, jit_compile):
    split = Split(*examples(12))
    make, options = (paired_batches if pairs else training_batches), {"batch_size": 4, "seed": 3}
    method, arguments = (parl_tf.DVERGE, {"num_steps": 1}) if pairs else (parl_tf.Ensemble, {})
    fitted, stepped = (
        ensemble_of(method, {"jit_compile": jit_compile}, **arguments) for _ in range(2)
    )
    batches = make(split, **options)
    fitted.fit(batches, epochs=2, verbose=0, shuffle=False)
    for epoch in range(2):
        stepped.begin_epoch(epoch, 2)
        for batch in make(split, **options, initial_epoch=epoch):
            stepped.train_on_batch(*batch)
    variables = (ensemble.trainable_variables for ensemble in (fitted, stepped))
    for ours, theirs in zip(*variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)
    # The third pass is the third epoch: nobody made a pass for a check.
    ours, theirs = (
        next(iter(found)) for found in (batches, make(split, **options, initial_epoch=2))
    )
    np.testing.assert_array_equal(keras.tree.flatten(ours)[0], keras.tree.flatten(theirs)[0])


@pytest.mark.parametrize("feed", slow_except(FEEDS, "data set"))
def test_a_loss_that_diverges_on_valid_batches_is_put_down_to_the_rate(feed):
    images, labels = examples(3 * BATCH)
    compiled = {"optimizer": keras.optimizers.SGD(1e30), "jit_compile": True}
    with pytest.raises(DivergedError) as ended:
        ensemble_of(compiled=compiled).fit(
            **FEEDS[feed](images, labels), verbose=0, callbacks=[StopWhenDiverged()]
        )
    message = str(ended.value)
    assert re.match(r"The loss became (nan|inf) in epoch 1, step [23]\. ", message)
    assert "of that batch and of all earlier ones are valid" in message
    assert "Try a learning rate below 1e+30." in message


def test_a_loss_that_is_not_finite_names_the_batch_where_none_could_be_checked():
    images, labels, _ = spoiled("labels from 1")
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        ensemble = ensemble_of(compiled={"jit_compile": True})
        strategy = ensemble.distribute_strategy
        batches = strategy.experimental_distribute_dataset(batches_of(images, labels))
        assert not isinstance(batches, tf.data.Dataset)
        with pytest.raises(DivergedError) as ended:
            ensemble.fit(batches, verbose=0, callbacks=[StopWhenDiverged()], shuffle=False)
    assert "in epoch 1, step 1. " in str(ended.value)
    assert "search batch 1 of that epoch" in str(ended.value)
    assert "divide by 255 first" in str(ended.value)
