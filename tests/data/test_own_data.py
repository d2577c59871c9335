"""A user's own data and arguments: what is plainly meant is taken, the rest ends in a sentence."""

import dataclasses
import fractions
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import NUM_CLASSES, examples, logits_loss, plain_network, residual_network

import parl_tf
from parl_tf.arguments import listed
from parl_tf.attacks.iterative import FGSM, PGD
from parl_tf.attacks.uniform_noise import UniformNoise
from parl_tf.data import own as own_data
from parl_tf.data.batches import paired_batches, training_batches
from parl_tf.data.datasets import Dataset
from parl_tf.data.examples import Split, check_examples
from parl_tf.data.own import as_arrays, images_of
from parl_tf.diversity.measuring import measure_diversity
from parl_tf.errors import InputError
from parl_tf.evaluation.cases import Case
from parl_tf.evaluation.robustness import evaluate_cases, evaluate_robustness
from parl_tf.evaluation.saved_examples import evaluate_examples
from parl_tf.protocols import PROTOCOLS
from parl_tf.report.records.collection import collect
from parl_tf.training.fitting import build_ensemble, train
from parl_tf.training.recipe import Recipe
from parl_tf.training.recipes import recipe_for

IMAGES, LABELS = examples(11)
MODEL = plain_network(0)
OTHER = plain_network(1)
ENSEMBLE = parl_tf.Ensemble([residual_network(2), plain_network(3)])


def tf_data(images=IMAGES, labels=LABELS):
    return tf.data.Dataset.from_tensor_slices((images, labels))


def generator(batch_size=4):
    for begin in range(0, len(IMAGES), batch_size):
        yield IMAGES[begin : begin + batch_size], LABELS[begin : begin + batch_size]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return IMAGES[4 * index : 4 * index + 4], LABELS[4 * index : 4 * index + 4]


class Endless(Batches):
    def __len__(self):
        raise TypeError

    @property
    def num_batches(self):
        return None


class LikePandas:
    """An array in a coat, as a column of a table is."""

    def __init__(self, values):
        self.values = values
        self.shape = values.shape

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


PART = Split(IMAGES, LABELS)
NOTHING = Split(IMAGES[:0], LABELS[:0])
FORMS = {
    "pair": lambda: (IMAGES, LABELS),
    "list of two": lambda: [IMAGES, LABELS],
    "Split": lambda: PART,
    "column": lambda: (IMAGES, LABELS[:, np.newaxis]),
    "column of uint8": lambda: (IMAGES, LABELS[:, np.newaxis].astype("uint8")),
    "nested lists": lambda: (IMAGES.tolist(), LABELS.tolist()),
    "list of arrays": lambda: (list(IMAGES), list(LABELS)),
    "tuples": lambda: tuple(zip(*zip(IMAGES, LABELS, strict=True), strict=True)),
    "tensors": lambda: (tf.constant(IMAGES), tf.constant(LABELS)),
    "list of tensors": lambda: (list(tf.constant(IMAGES)), list(tf.constant(LABELS))),
    "float64": lambda: (IMAGES.astype("float64"), LABELS),
    "like pandas": lambda: (LikePandas(IMAGES), LikePandas(LABELS)),
    "tf.data": tf_data,
    "tf.data batched": lambda: tf_data().batch(4),
    "tf.data of a column": lambda: tf_data(labels=LABELS[:, np.newaxis]).batch(4),
    "tf.data of unknown length": lambda: tf_data().filter(lambda x, y: True).batch(4),
    "tf.data repeated once": lambda: tf_data().repeat(1).prefetch(1),
    "PyDataset": Batches,
    "generator": generator,
    "generator of one": lambda: generator(1),
    "list of batches": lambda: list(generator()),
    "list of two batches": lambda: list(generator(6)),
    "list of examples": lambda: list(zip(IMAGES, LABELS, strict=True)),
    "zip": lambda: zip(IMAGES, LABELS, strict=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_examples(form):
    found = check_examples(*as_arrays(FORMS[form](), "test"), NUM_CLASSES)
    np.testing.assert_array_equal(found.images, IMAGES)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert (found.images.dtype, found.labels.dtype) == ("float32", "int64")


ELSEWHERE = Split(IMAGES[::-1], LABELS[::-1])
DATASET = Dataset("mine", tuple("abcd"), PART, NOTHING, ELSEWHERE, "fingerprint")


def test_the_part_of_a_data_set_that_is_meant():
    np.testing.assert_array_equal(as_arrays(DATASET, "test")[0], IMAGES[::-1])
    np.testing.assert_array_equal(as_arrays(DATASET, "train")[1], LABELS)
    np.testing.assert_array_equal(images_of(DATASET), IMAGES[::-1])


def timeless(records):
    return [dataclasses.replace(record, seconds=0.0) for record in records]


@pytest.fixture(scope="module")
def expected():
    """An evaluation in the form that everything else is the same as."""
    arguments = ({"a": MODEL}, [UniformNoise()], [0.1], (IMAGES, LABELS))
    return timeless(evaluate_robustness(*arguments, seed=1))


@pytest.mark.parametrize(
    "form", ["column", "tf.data", "tf.data batched", "PyDataset", "generator", "list of tensors"]
)
def test_evaluation_of_own_data(expected, form):
    data = FORMS[form]()
    records = evaluate_robustness({"a": MODEL}, [UniformNoise()], [0.1], data, seed=1)
    assert timeless(records) == expected


@pytest.mark.parametrize(
    "epsilons",
    [
        0.1,
        np.float64(0.1),
        np.array(0.1),
        np.array([0.1]),
        (0.1,),
        {0.1},
        range(1),  # in place of an iterator, which can be read once
        fractions.Fraction("0.1"),
        tf.constant(0.1, tf.float64),
        tf.constant([0.1], tf.float64),
    ],
)
@pytest.mark.parametrize("attacks", [UniformNoise(), (UniformNoise(),)])
def test_a_single_attack_and_a_single_strength(expected, attacks, epsilons):
    epsilons = iter([0.1]) if isinstance(epsilons, range) else epsilons
    given = ({"a": MODEL}, attacks, epsilons, PART)
    assert timeless(evaluate_robustness(*given, seed=1)) == expected


def test_strengths_that_are_read_once_are_for_every_attack():
    radii = (number / 255 for number in (4, 8))
    records = evaluate_robustness({"a": MODEL}, [FGSM(), UniformNoise()], radii, PART)
    assert [(record.attack, record.epsilon) for record in records[1:]] == [
        *(("fgsm", 4 / 255), ("fgsm", 8 / 255)),
        *(("uniform-noise", 4 / 255), ("uniform-noise", 8 / 255)),
    ]


def test_a_single_model_goes_by_its_own_name():
    records = evaluate_robustness(MODEL, FGSM(), 0.1, PART, surrogates=OTHER)
    assert [record.target.name for record in records] == [MODEL.name] * 2
    assert records[1].surrogate.name == OTHER.name
    named = evaluate_robustness(
        {MODEL.name: MODEL}, FGSM(), 0.1, PART, surrogates={OTHER.name: OTHER}
    )
    assert timeless(named) == timeless(records)
    with pytest.raises(InputError, match=r"not targets.*different names: \{'target': model\}"):
        evaluate_robustness(MODEL, FGSM(), 0.1, PART, surrogates=MODEL)


def test_a_single_case_and_a_tuple_for_one(expected):
    whole = Case("white_box", UniformNoise(), 0.1)
    for cases in (whole, [whole], [("white_box", UniformNoise(), np.float64(0.1))], iter([whole])):
        assert timeless(evaluate_cases({"a": MODEL}, cases, PART, seed=1)) == expected


def test_saved_examples_are_shown_with_own_data(tmp_path, expected):
    given = ({"a": MODEL}, UniformNoise(), 0.1, PART)
    evaluate_robustness(*given, seed=1, examples_out=tmp_path / "saved")
    shown = evaluate_examples(MODEL, tmp_path / "saved", tf_data().batch(4))
    assert [record.correct for record in shown] == [record.correct for record in expected]


@pytest.mark.slow
def test_diversity_of_own_data():
    few = tf_data().take(6)
    found, wanted = (
        measure_diversity("e", ENSEMBLE, PGD(num_steps=1), np.float64(0.1), data)
        for data in (few.batch(4), (IMAGES[:6], LABELS[:6, np.newaxis]))
    )
    assert dataclasses.replace(found, seconds=0) == dataclasses.replace(wanted, seconds=0)


@pytest.mark.parametrize(
    "form",
    [
        lambda: IMAGES,
        lambda: list(IMAGES),
        lambda: tf.constant(IMAGES),
        lambda: PART,
        lambda: tf.data.Dataset.from_tensor_slices(IMAGES),
        lambda: tf.data.Dataset.from_tensor_slices(IMAGES).batch(4),
        lambda: tf_data().batch(4),
        tf_data,
        Batches,
    ],
)
def test_predictions_of_own_images(form):
    votes = np.stack([np.argmax(member(IMAGES), axis=1) for member in ENSEMBLE.members])
    agreed = votes[0] == votes[1]
    assert agreed.any()
    np.testing.assert_array_equal(ENSEMBLE.predict_classes(form())[agreed], votes[0][agreed])


@pytest.mark.parametrize("make", [training_batches, paired_batches])
@pytest.mark.parametrize(
    "form", ["pair", "column", "tf.data", "tf.data batched", "generator", "zip"]
)
def test_training_batches_of_own_data(make, form):
    options = {"batch_size": 4, "seed": 3}
    found, wanted = (
        [keras.tree.map_structure(np.asarray, batch) for batch in make(data, **options)]
        for data in (FORMS[form](), PART)
    )
    assert len(found) == 2
    for batch, other in zip(found, wanted, strict=True):
        keras.tree.map_structure(np.testing.assert_array_equal, batch, other)


def test_training_batches_are_of_the_training_part():
    labels = [y for _, y in training_batches(DATASET, batch_size=11, seed=0).as_numpy_iterator()]
    assert sorted(labels[0]) == sorted(LABELS)
    shown = dataclasses.replace(DATASET, train=Split(IMAGES[:1], np.array([3])))
    (batch,) = training_batches(shown, batch_size=1, seed=0).as_numpy_iterator()
    assert batch[1].tolist() == [3]


def test_pairs_are_made_of_data_that_are_read_once():
    shuffled = tf_data().shuffle(11)
    batches = paired_batches(shuffled, batch_size=11, seed=0, augmentation=())
    for (images, partners), labels in batches.as_numpy_iterator():
        order = [int(np.flatnonzero((image == IMAGES).all(axis=(1, 2, 3)))[0]) for image in images]
        np.testing.assert_array_equal(labels, LABELS[order])
        assert sorted(map(bytes, partners)) == sorted(map(bytes, images))


REFUSED = [
    (lambda: tf_data().repeat(), r"repeats forever. Leave out its repeat\(\).*data.take\(n\)"),
    (Endless, "Expected finite data. Received: a PyDataset with endless batches"),
    (lambda: tf_data().take(0), "at least one example. Received: empty data"),
    (lambda: iter(()), "at least one example. Received: empty data"),
    (lambda: IMAGES, r"Received: an array of shape \(11, 8, 8, 3\), without labels"),
    (lambda: tf.constant(IMAGES), r"an array of shape \(11, 8, 8, 3\), without labels"),
    (lambda: tf.data.Dataset.from_tensor_slices(IMAGES), r"pairs \(images, labels\).*an array of"),
    (lambda: (LABELS, IMAGES), "images first, then labels. Received: labels, then images"),
    (lambda: (LABELS[:, np.newaxis], IMAGES), "Received: labels, then images"),
    (lambda: tf_data(LABELS, IMAGES).batch(4), "Received: labels, then images"),
    (lambda: (IMAGES, LABELS, np.ones(11)), "3 parts. Leave out sample weights"),
    (lambda: tf.data.Dataset.zip(tf_data(), tf_data()), "of one shape|pair of pairs"),
    (lambda: ((IMAGES, LABELS), (IMAGES, LABELS)), "a pair of pairs.*keras.datasets"),
    (lambda: {"image": IMAGES, "label": LABELS}, "Received: an object of type dict"),
    (
        lambda: tf.data.Dataset.from_tensors({"image": IMAGES, "label": LABELS}),
        "mapping of image, label. .*as_supervised=True",
    ),
    (lambda: "cifar10", "Received: 'cifar10'. parl_tf.load_dataset loads data sets by name"),
    (lambda: None, "Expected images and labels.*Received: None"),
    (lambda: 3, "Received: 3"),
    (lambda: (IMAGES, None), "11 integer labels"),
    (lambda: ((255 * IMAGES).astype("uint8"), LABELS), "Divide by 255 first"),
    (lambda: tf_data((255 * IMAGES).astype("uint8")).batch(4), "Divide by 255 first"),
    (lambda: (IMAGES, np.eye(4, dtype=int)[LABELS]), r"shape \(11, 4\).*labels.argmax\(axis=1\)"),
    (lambda: tf_data(labels=np.eye(4)[LABELS]), r"shape \(11, 4\).*labels.argmax\(axis=1\)"),
    (lambda: (IMAGES, LABELS.astype(float)), r"type float64. .*labels.astype\(int\)"),
    (lambda: (IMAGES, LABELS + 1), "labels from 0 to 3. Received: from 1 to 4"),
    (lambda: (IMAGES[..., 0], LABELS), r"shape \(11, 8, 8\).*images\[..., None\]"),
    (lambda: tf_data(IMAGES[..., 0]).batch(4), r"shape \(11, 8, 8\).*images\[..., None\]"),
    (lambda: tf_data(IMAGES[..., 0]), r"shapes \(8, 8\) and \(\)"),
    (lambda: (IMAGES[0], LABELS[:1]), r"images\[None\]"),
    (lambda: ([IMAGES[0], IMAGES[1, :4]], LABELS[:2]), "images of one shape"),
    (lambda: (IMAGES, [[0], [1, 2]]), "labels of one shape"),
    (lambda: [(IMAGES, LABELS), (IMAGES[:, :4], LABELS)], "images of one shape"),
    (lambda: zip(IMAGES, LABELS, LABELS, strict=True), "3 parts"),
    (lambda: [IMAGES, LABELS, LABELS], "3 parts"),
    (lambda: object(), "Received: an object of type object"),
]


@pytest.mark.parametrize(("form", "message"), REFUSED)
def test_what_cannot_be_taken_ends_in_a_sentence(form, message):
    with pytest.raises(InputError, match=message):
        evaluate_robustness(
            {"a": MODEL}, FGSM(), 0.1, form(), on_progress=lambda *_: pytest.fail("attacked")
        )


@pytest.mark.parametrize(
    ("form", "message"),
    [(form, message) for form, message in REFUSED if "from 0 to 3" not in message],
)
def test_it_cannot_be_trained_on_either(form, message):
    for make in (training_batches, paired_batches):
        with pytest.raises(InputError, match=message):
            make(form(), batch_size=2, seed=0)


def test_possibly_endless_data_are_read_up_to_a_size(monkeypatch):
    def endless():
        return itertools.cycle(generator())

    signature = (tf.TensorSpec((None, 8, 8, 3)), tf.TensorSpec((None,), tf.int64))
    unknown = tf.data.Dataset.from_generator(endless, output_signature=signature)
    monkeypatch.setattr(own_data, "_MOST_BYTES", 4 * IMAGES.nbytes)
    for data in (endless(), unknown):
        with pytest.raises(InputError, match=r"endless data.*data.take\(n\).*islice\(data, n\)"):
            as_arrays(data, "test")
    assert len(as_arrays(itertools.islice(endless(), 3), "test")[0]) == 11
    assert len(as_arrays(unknown.take(3), "test")[0]) == 11
    # What says how long it is may be as long as it wants.
    assert len(as_arrays(tf_data().repeat(5), "test")[0]) == 55
    assert len(as_arrays([*generator()] * 5, "test")[0]) == 55


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": FGSM}, r"such as parl_tf.FGSM\(\). .*Make an instance: FGSM\(\)"),
        ({"attacks": [PGD]}, r"Make an instance: PGD\(\)"),
        ({"attacks": "fgsm"}, r"such as parl_tf.FGSM\(\). Received: 'fgsm'"),
        ({"attacks": {"fgsm": FGSM()}}, "Received: 'fgsm'"),
        ({"attacks": None}, "Received: None"),
        ({"epsilons": "8/255"}, "a number such as 8 / 255. Received: '8/255'"),
        ({"epsilons": ["0.1"]}, "Received: '0.1'"),
        ({"epsilons": None}, "Received: None"),
        ({"epsilons": True}, "Received: True"),
        ({"epsilons": [[0.1, 0.2]]}, r"Received: \[0.1, 0.2\]"),
        ({"epsilons": np.array([[0.1]])}, r"Received: array\(\[0.1\]\)"),
        ({"epsilons": 8}, "levels of 0 to 255 by 255"),
        ({"targets": [MODEL]}, r"targets as a mapping.*\{'parl': ensemble\}, or a single model"),
        ({"targets": "run"}, "targets as a mapping"),
        ({"surrogates": (OTHER, MODEL)}, "surrogates as a mapping"),
    ],
)
def test_arguments_that_cannot_be_taken(changes, message):
    given = {"targets": {"a": MODEL}, "attacks": FGSM(), "epsilons": 0.1, "data": PART, **changes}
    with pytest.raises(InputError, match=message):
        evaluate_robustness(**given)


@pytest.mark.parametrize(
    "cases", ["paper", PROTOCOLS["paper"], [FGSM()], ("white_box", FGSM(), 0.1), [None]]
)
def test_cases_that_cannot_be_taken(cases):
    with pytest.raises(InputError, match=r"cases such as Case\('white_box', parl_tf.FGSM\(\)"):
        evaluate_cases({"a": MODEL}, cases, PART)


def test_an_attack_takes_one_strength_of_any_kind():
    wanted = FGSM()(MODEL, IMAGES, LABELS, epsilon=0.5)
    for epsilon in (np.float32(0.5), np.array(0.5), fractions.Fraction(1, 2), tf.constant(0.5)):
        np.testing.assert_array_equal(FGSM()(MODEL, IMAGES, LABELS, epsilon=epsilon), wanted)
    for epsilon in ([0.1, 0.2], "8/255", None, True):
        with pytest.raises(InputError, match="epsilon as a number such as 8 / 255"):
            FGSM()(MODEL, IMAGES, LABELS, epsilon=epsilon)


def test_protocols_take_a_single_name_and_strength():
    protocol = PROTOCOLS["white-box"]
    several = protocol.cases(epsilons=[0.1], attacks=["fgsm"])
    assert [(case.attack.name, case.epsilon) for case in several] == [("fgsm", 0.1)]
    assert protocol.cases(epsilons=0.1, attacks="fgsm") == several
    assert protocol.cases(epsilons=np.float64(0.1), attacks=("fgsm",)) == several


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, [None]),
        ("ab", ["ab"]),
        (1.5, [1.5]),
        ((1, 2), [1, 2]),
        (np.arange(2), [0, 1]),
        (np.array(3), [np.array(3)]),
        (range(2), [0, 1]),
    ],
)
def test_listed(given, expected):
    assert listed(given) == expected


def test_a_single_path_is_reported(tmp_path):
    results = tmp_path / "results.json"
    evaluate_robustness({"a": MODEL}, FGSM(), 0.1, PART, out=results)
    for paths in (results, str(results), [results]):
        assert len(collect(paths).results) == 2


def test_training_says_what_it_takes(tmp_path):
    for dataset in ("digits", (IMAGES, LABELS), PART, tf_data()):
        kind = type(dataset).__name__
        with pytest.raises(InputError, match=f"Received: an object of type {kind}. To train on"):
            train("parl", dataset, tmp_path / "run")
        with pytest.raises(InputError, match="load_dataset returns it"):
            build_ensemble("parl", dataset)
    for recipe, message in (("papers", "Did you mean paper"), ({"epochs": 3}, "Expected a Recipe")):
        with pytest.raises(InputError, match=message):
            train("parl", DATASET, tmp_path / "run", recipe=recipe)
    assert list(tmp_path.iterdir()) == []


def frozen(seed):
    network = plain_network(seed)
    network.trainable = False
    return network


@pytest.mark.parametrize("method", [parl_tf.Ensemble, parl_tf.ADP])
def test_with_every_weight_frozen_there_is_nothing_to_train(tmp_path, method):
    ensemble = method([frozen(0), frozen(1)])
    ensemble.compile("sgd", logits_loss())
    batches = training_batches(PART, batch_size=4, seed=0)
    for training in (
        lambda: ensemble.fit(batches, shuffle=False, verbose=0),
        lambda: ensemble.fit(IMAGES, LABELS, verbose=0),
        lambda: ensemble.train_on_batch(IMAGES, LABELS),
    ):
        with pytest.raises(InputError, match="Expected weights to train.*trainable=True"):
            training()
    # It is evaluated, attacked and saved as any other.
    logs = ensemble.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    right = ensemble.predict_classes(IMAGES) == LABELS
    assert logs["vote_accuracy"] == pytest.approx(right.mean())
    (clean, _) = evaluate_robustness(ensemble, FGSM(), 0.1, PART)
    assert clean.correct == [right.astype(int).tolist()]
    ensemble.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    np.testing.assert_array_equal(loaded.predict_classes(IMAGES), ensemble.predict_classes(IMAGES))


def test_layers_that_are_frozen_one_by_one_or_after_a_training():
    ensemble = parl_tf.Ensemble([plain_network(0), plain_network(1)])
    ensemble.compile("sgd", logits_loss())
    ensemble.fit(IMAGES, LABELS, verbose=0)
    for member in ensemble.members:
        for layer in member.layers:
            layer.trainable = False
    with pytest.raises(InputError, match="Expected weights to train"):
        ensemble.fit(IMAGES, LABELS, verbose=0)


@pytest.mark.parametrize("method", [parl_tf.Ensemble, parl_tf.GAL])
def test_a_single_frozen_member_stays_as_it_is(method):
    ensemble = method([frozen(0), plain_network(1)])
    before = [member.get_weights() for member in ensemble.members]
    ensemble.compile("sgd", logits_loss())
    ensemble.fit(IMAGES, LABELS, verbose=0)
    after = [member.get_weights() for member in ensemble.members]
    for old, new in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(old, new)
    assert any(not np.array_equal(old, new) for old, new in zip(before[1], after[1], strict=True))


def test_a_recipe_goes_by_its_name():
    from parl_tf.training.recipes import recipe_of

    assert recipe_of("paper", "dverge") == Recipe()
    assert recipe_of(None, "dverge") == recipe_for("dverge")
    assert recipe_of(Recipe(epochs=3), "dverge") == Recipe(epochs=3)
