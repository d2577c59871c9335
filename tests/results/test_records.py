import copy
import dataclasses
import json

import numpy as np
import pytest
from harness.run_configs import run_config
from hypothesis import given, settings
from hypothesis import strategies as st

from parl_tf.errors import InputError
from parl_tf.results.keys import AttackKey
from parl_tf.results.records import ModelCard, Record, from_json, survived_all, to_json

CARD = ModelCard(name="parl", fingerprint="0011", config=run_config("parl"))
SURROGATE = ModelCard(name="surrogate", fingerprint="2233")


def record(**changes):
    values = {
        "target": CARD,
        "threat_model": "black_box",
        "surrogate": SURROGATE,
        "protocol": "paper",
        "attack": "pgd",
        "hyperparameters": {"num_steps": 50, "restarts": 3, "step_size": None, "loss": "margin"},
        "epsilon": 0.03,
        "correct": [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]],
        "mean_right": [0.5, 0.25, 0.0],
        "tied": [0.25, 0.0, 0.5],
        "unmoved": [0.0, 0.0, 0.25],
        "seed": 0,
        "batch_size": 250,
        "seconds": 1.5,
        "data": {"name": "cifar10", "fingerprint": "0123", "num_examples": 4},
        "versions": {"keras": "3"},
    }
    return Record(**{**values, **changes})


def of_masks(masks, **changes):
    """A record of masks."""
    parts = [0.0] * len(masks)
    data = {"fingerprint": "0123", "num_examples": len(masks[0])}
    lists = {"correct": masks, "mean_right": parts, "tied": parts, "unmoved": parts}
    return record(**{**lists, "data": data, **changes})


def changed(*path, to):
    """The JSON value of a record, with one entry replaced, or removed if `to` is `...`."""
    value = copy.deepcopy(to_json(record()))
    *parents, last = path
    entry = value
    for parent in parents:
        entry = entry[parent]
    if to is ...:
        del entry[last]
    else:
        entry[last] = to
    return value


def test_mean_and_worst_case_over_restarts():
    assert record().accuracy == pytest.approx(5 / 12)
    assert record().worst_case_accuracy == 0.25
    assert record().survived.tolist() == [True, False, False, False]
    assert record().mean_probability_accuracy == 0.25
    assert record().tie_rate == 0.25
    assert record().num_examples == 4


MASKS = st.integers(1, 40).flatmap(
    lambda count: st.lists(
        st.lists(st.integers(0, 1), min_size=count, max_size=count), min_size=1, max_size=4
    )
)


@settings(deadline=None)
@given(
    masks=MASKS,
    epsilon=st.floats(0, 1, exclude_min=True),
    part=st.floats(0, 1),
    seconds=st.floats(0, 1e9),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_record_returns_from_json_bit_for_bit(masks, epsilon, part, seconds, seed):
    parts = [part] * len(masks)
    one = of_masks(masks, epsilon=epsilon, seconds=seconds, seed=seed, mean_right=parts)
    text = json.dumps(to_json(one), allow_nan=False)
    back = from_json(json.loads(text))
    assert back == one
    assert json.dumps(to_json(back)) == text
    assert back.key == one.key


def test_a_clean_record_returns_from_json():
    clean = record(threat_model="clean", attack="clean", surrogate=None, epsilon=0.0)
    clean = dataclasses.replace(clean, hyperparameters={})
    assert from_json(to_json(clean)) == clean


@pytest.mark.parametrize(
    ("mask", "digits"),
    [
        ([1], "80"),
        ([0, 0, 0, 1], "10"),
        ([1, 0, 1, 0, 0, 0, 0, 1], "a1"),
        ([0] * 8 + [1, 1], "00c0"),
        ([1] * 13, "fff8"),
    ],
)
def test_masks_are_hexadecimal_with_the_first_image_in_the_highest_bit(mask, digits):
    assert to_json(of_masks([mask, mask]))["correct"] == [digits, digits]


def test_json_carries_the_accuracies():
    value = to_json(record())
    assert value["accuracy"] == pytest.approx(5 / 12)
    assert value["worst_case_accuracy"] == 0.25
    assert value["target"] == {
        "name": "parl",
        "fingerprint": "0011",
        "config": CARD.config.to_json(),
    }


@pytest.mark.parametrize("name", [*to_json(record())])
def test_nothing_of_a_record_may_be_missing(name):
    with pytest.raises(InputError, match="Expected a result record"):
        from_json(changed(name, to=...))


WRONG = [
    ("target", "parl"),
    ("target", None),
    ("target", {"name": "parl"}),
    ("target", {"name": "parl", "fingerprint": "00", "config": None, "weights": 3}),
    ("target", {"name": ["parl"], "fingerprint": "00"}),
    ("target", {"name": "parl", "fingerprint": 0}),
    ("target", {"name": "", "fingerprint": "00"}),
    ("target", {"name": "parl", "fingerprint": "00", "config": "parl"}),
    ("target", {"name": "parl", "fingerprint": "00", "config": {"format": 2, "method": "parl"}}),
    ("surrogate", None),
    ("surrogate", "other"),
    ("threat_model", "grey_box"),
    ("threat_model", ["black_box"]),
    ("threat_model", "white_box"),
    ("threat_model", "clean"),
    ("protocol", None),
    ("protocol", ""),
    ("attack", 3),
    ("attack", "clean"),
    ("hyperparameters", None),
    ("hyperparameters", [1]),
    ("hyperparameters", {"num_steps": [50]}),
    ("hyperparameters", {"num_steps": {"a": 1}}),
    ("epsilon", "8/255"),
    ("epsilon", 8),
    ("epsilon", -0.1),
    ("epsilon", 0),
    ("epsilon", float("nan")),
    ("epsilon", None),
    ("correct", []),
    ("correct", None),
    ("correct", "c0"),
    ("correct", [[1, 0, 0, 1]] * 3),
    ("correct", ["c0", "a0"]),
    ("correct", ["c0", "a0", "8"]),
    ("correct", ["c0", "a0", "zz"]),
    ("correct", ["c0", "a0", "8000"]),
    ("correct", ["c0", "a0", ""]),
    ("correct", ["c0", "a0", "81"]),  # a bit beyond the four images
    ("correct", ["c0", "a0", "c0"]),  # another accuracy than what stands beside it
    ("mean_right", 0.5),
    ("mean_right", [0.5]),
    ("mean_right", [0.5, 0.25, "0"]),
    ("mean_right", [0.5, 0.25, 1.5]),
    ("tied", [0.5, 0.25, None]),
    ("tied", [0.5, 0.25, float("nan")]),
    ("unmoved", [0.5, 0.25, -0.1]),
    ("seed", "0"),
    ("seed", -1),
    ("seed", 0.5),
    ("batch_size", 0),
    ("batch_size", None),
    ("seconds", -1),
    ("seconds", float("inf")),
    ("seconds", float("nan")),
    ("data", None),
    ("data", []),
    ("data", {"fingerprint": "0123"}),
    ("data", {"num_examples": 4}),
    ("data", {"fingerprint": 123, "num_examples": 4}),
    ("data", {"fingerprint": "0123", "num_examples": 0}),
    ("data", {"fingerprint": "0123", "num_examples": 9}),
    ("data", {"fingerprint": "0123", "num_examples": "4"}),
    ("data", {"fingerprint": "0123", "num_examples": True}),
    ("versions", []),
    ("accuracy", 0.42),
    ("accuracy", "0.41"),
    ("accuracy", None),
    ("accuracy", 10**400),
    ("worst_case_accuracy", 0.26),
    ("worst_case_accuracy", [0.25]),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_wrong_and_contradicting_values_are_refused(name, wrong):
    with pytest.raises(InputError, match="Expected a result record"):
        from_json(changed(name, to=wrong))


@pytest.mark.parametrize("value", [None, 1, "record", [], {}, [to_json(record())]])
def test_other_json_is_no_record(value):
    with pytest.raises(InputError, match="Expected a result record"):
        from_json(value)


def test_an_edited_accuracy_is_noticed():
    value = to_json(record())
    with pytest.raises(InputError, match="worst_case_accuracy does not match the masks"):
        from_json({**value, "worst_case_accuracy": 0.5})
    assert from_json({**value, "accuracy": value["accuracy"] + 1e-15})  # a decimal's rounding


def test_keys_tell_records_apart():
    others = [
        record(),
        record(target=dataclasses.replace(CARD, name="other")),
        record(surrogate=dataclasses.replace(SURROGATE, name="second")),
        record(threat_model="white_box", surrogate=None),
        record(attack="bim"),
        record(hyperparameters={**record().hyperparameters, "num_steps": 51}),
        record(epsilon=0.031),
    ]
    assert len({one.key for one in others}) == len(others)
    turned = dict(reversed(record().hyperparameters.items()))
    assert record(hyperparameters=turned, seconds=9.0).key == record().key


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        ({"loss": "margin", "num_steps": 5}, True),  # another order
        ({"num_steps": 5.0, "loss": "margin"}, True),  # as a reader of JSON may return it
        ({"num_steps": 5, "loss": "margin", "step_size": None}, False),
        ({"num_steps": 5, "loss": "5"}, False),
        ({"num_steps": "5", "loss": "margin"}, False),
        ({}, False),
    ],
)
def test_attacks_are_equal_by_their_names_and_hyperparameters(other, equal):
    key = AttackKey.of("pgd", {"num_steps": 5, "loss": "margin"})
    found = AttackKey.of("pgd", other)
    assert (key == found) is equal
    assert (len({key, found}) == 1) is equal
    assert AttackKey.of("bim", key.hyperparameters) != key


@pytest.mark.parametrize("value", [[1], {"a": 1}])
def test_a_hyperparameter_that_is_no_scalar_is_refused_by_name(value):
    with pytest.raises(InputError, match="for num_steps. Received: "):
        AttackKey.of("pgd", {"num_steps": value})


def test_images_that_survive_all_records():
    other = record(correct=[[1, 1, 1, 1]], mean_right=[1.0], tied=[0.0], unmoved=[0.0])
    assert survived_all([other]).tolist() == [True] * 4
    assert survived_all([record(), other]).tolist() == [True, False, False, False]
    assert survived_all([record()]).dtype == np.bool_


@pytest.mark.parametrize(
    "records",
    [
        [],
        [record(), record(target=dataclasses.replace(CARD, fingerprint="9999"))],
        [record(), record(data={**record().data, "fingerprint": "9999"})],
    ],
)
def test_only_records_of_one_target_and_the_same_images_are_joined(records):
    with pytest.raises(InputError, match="one target and the same images"):
        survived_all(records)
