import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import parl_tf
from parl_tf.attacks import ATTACKS
from parl_tf.evaluation.diagnostics import masking_checks
from parl_tf.evaluation.robustness import evaluate_cases
from parl_tf.protocols import PROTOCOLS
from parl_tf.results.records import ModelCard, Record

CHECKS = (
    "iterative attacks beat FGSM",
    "accuracy falls with epsilon",
    "accuracy reaches 0 in a large ball",
    "more steps and restarts change little",
    "white box beats transfer, image by image",
    "a search without gradients does no better",
    "noise of the same size does far less",
    "gradients do not vanish",
)
ITERATIVE, FALLS, LARGE_BALL, BUDGET, TRANSFER, SEARCH, NOISE, VANISH = CHECKS
COUNT = 400  # two standard errors of 2 % of them are below 2 %
SURROGATE = ModelCard(name="surrogate", fingerprint="22")


def first(count):
    """The mask of the first `count` images."""
    return [int(index < count) for index in range(COUNT)]


def last(count):
    """The mask of the last `count` images."""
    return first(count)[::-1]


def record(attack, epsilon, *masks, target="mine", unmoved=0.0, num_steps=None, **changes):
    """A white-box record, or of clean images if the attack is none; a count is a mask."""
    masks = [first(mask) if isinstance(mask, int) else mask for mask in masks]
    parts = [0.0] * len(masks)
    values = {
        "target": ModelCard(name=target, fingerprint="11"),
        "threat_model": "clean" if attack == "clean" else "white_box",
        "surrogate": None,
        "protocol": "diagnostics",
        "attack": attack,
        "hyperparameters": {} if num_steps is None else {"num_steps": num_steps},
        "epsilon": epsilon,
        "correct": masks,
        "mean_right": parts,
        "tied": parts,
        "unmoved": [unmoved] * len(masks),
        "seed": 0,
        "batch_size": 250,
        "seconds": 1.0,
        "data": {"fingerprint": "33", "num_examples": COUNT},
        "versions": {},
        **changes,
    }
    return Record(**values)


def pgd(epsilon, *masks, num_steps=50, **changes):
    return record("pgd", epsilon, *masks, num_steps=num_steps, **changes)


def transfer(epsilon, *masks, **changes):
    black_box = {"threat_model": "black_box", "surrogate": SURROGATE}
    return pgd(epsilon, *masks, **black_box, **changes)


CLEAN = record("clean", 0.0, 360)


def outcome(check, records):
    """The outcome of one check of one target."""
    found = masking_checks(records)
    assert [entry.check for entry in found] == list(CHECKS)
    (one,) = (entry for entry in found if entry.check == check)
    assert one.target == "mine"
    assert one.detail
    assert (one.passed is None) == one.detail.startswith("not run")
    return one.passed


@pytest.mark.parametrize(
    ("check", "records", "passed"),
    [
        # BIM may leave 2 % more than FGSM, and no more.
        (ITERATIVE, [record("fgsm", 0.03, 200), record("bim", 0.03, 100)], True),
        (ITERATIVE, [record("fgsm", 0.03, 200), record("bim", 0.03, 200)], True),
        (ITERATIVE, [record("fgsm", 0.03, 200), record("bim", 0.03, 208)], True),
        (ITERATIVE, [record("fgsm", 0.03, 200), record("bim", 0.03, 209)], False),
        # The same difference, of images that scatter, is within two standard errors.
        (ITERATIVE, [record("fgsm", 0.03, 200), record("bim", 0.03, last(209))], True),
        (ITERATIVE, [record("fgsm", 0.03, 200), record("bim", 0.05, 400)], None),
        (ITERATIVE, [record("fgsm", 0.03, 200)], None),
        # One strength at which it is so does not make up for another.
        (
            ITERATIVE,
            [
                *(record("fgsm", 0.03, 200), record("bim", 0.03, 100)),
                *(record("fgsm", 0.07, 100), record("bim", 0.07, 120)),
            ],
            False,
        ),
        (FALLS, [CLEAN, pgd(0.03, 200), pgd(0.07, 100)], True),
        (FALLS, [CLEAN, pgd(0.07, 100), pgd(0.03, 200)], True),
        (FALLS, [CLEAN, pgd(0.03, 200), pgd(0.07, 208)], True),
        (FALLS, [CLEAN, pgd(0.03, 200), pgd(0.07, 209)], False),
        (FALLS, [CLEAN, pgd(0.03, 369), pgd(0.07, 100)], False),
        (FALLS, [CLEAN, pgd(0.03, 200)], None),
        (FALLS, [pgd(0.03, 200), pgd(0.07, 100)], None),
        (FALLS, [CLEAN, transfer(0.03, 200), transfer(0.07, 300)], None),
        # The strongest at a strength is that of most steps.
        (FALLS, [CLEAN, pgd(0.03, 100), pgd(0.03, 90, num_steps=200), pgd(0.07, 95)], True),
        (FALLS, [CLEAN, pgd(0.03, 90), pgd(0.03, 50, num_steps=200), pgd(0.07, 80)], False),
        (LARGE_BALL, [pgd(0.5, 0)], True),
        (LARGE_BALL, [pgd(0.5, 8)], True),
        (LARGE_BALL, [pgd(0.5, 9)], False),
        (LARGE_BALL, [pgd(0.5, 9, last(9))], True),
        (LARGE_BALL, [pgd(0.49, 0)], None),
        (LARGE_BALL, [transfer(0.5, 0), record("bim", 0.5, 0)], None),
        (BUDGET, [pgd(0.03, 200, 180), pgd(0.03, 160, num_steps=200)], True),
        (BUDGET, [pgd(0.03, 200, 179), pgd(0.03, 179, num_steps=200)], False),
        (BUDGET, [pgd(0.03, 200, 200), pgd(0.03, 179, num_steps=200)], False),
        (BUDGET, [pgd(0.03, 200, 200), pgd(0.03, 220, num_steps=200)], True),
        (BUDGET, [pgd(0.03, 200), pgd(0.05, 160, num_steps=200)], None),
        # Parts whose difference is not a round number in floating point.
        (BUDGET, [pgd(0.03, 360, 340), pgd(0.03, 320, num_steps=200)], True),
        (BUDGET, [pgd(0.03, 60, 40), pgd(0.03, 20, num_steps=200)], True),
        (TRANSFER, [pgd(0.03, 200), transfer(0.03, 300)], True),
        (TRANSFER, [pgd(0.03, 200), transfer(0.03, 192)], True),
        (TRANSFER, [pgd(0.03, 200), transfer(0.03, 191)], False),
        # It counts image by image, not on the whole.
        (TRANSFER, [pgd(0.03, 100), transfer(0.03, last(300))], False),
        # The worst over all that either does.
        (TRANSFER, [pgd(0.03, 200), record("fgsm", 0.03, 100), transfer(0.03, 100)], True),
        (
            TRANSFER,
            [pgd(0.03, 200), transfer(0.03, 300), transfer(0.03, first(195), first(190))],
            False,
        ),
        (TRANSFER, [pgd(0.03, 200), transfer(0.05, 0)], None),
        (TRANSFER, [pgd(0.03, 200)], None),
        (SEARCH, [pgd(0.03, 200), record("square", 0.03, 300)], True),
        (SEARCH, [pgd(0.03, 200), record("square", 0.03, 192)], True),
        (SEARCH, [pgd(0.03, 200), record("square", 0.03, 191)], False),
        (SEARCH, [pgd(0.03, 200), record("hop-skip-jump", 0.03, 191)], False),
        (SEARCH, [pgd(0.03, 200), record("bim", 0.03, 150), record("square", 0.03, 150)], True),
        (SEARCH, [pgd(0.03, 200), record("square", 0.05, 0)], None),
        (SEARCH, [pgd(0.03, 200)], None),
        (NOISE, [CLEAN, pgd(0.03, 200), record("uniform-noise", 0.03, 360)], True),
        (NOISE, [CLEAN, pgd(0.03, 200), record("uniform-noise", 0.03, 280)], True),
        (NOISE, [CLEAN, pgd(0.03, 200), record("uniform-noise", 0.03, 279)], False),
        (NOISE, [CLEAN, pgd(0.03, 360), record("uniform-noise", 0.03, 352)], True),
        (NOISE, [CLEAN, pgd(0.03, 360), record("uniform-noise", 0.03, 351)], False),
        (NOISE, [CLEAN, pgd(0.03, 200), record("uniform-noise", 0.03, 360, last(319))], False),
        (NOISE, [pgd(0.03, 200), record("uniform-noise", 0.03, 360)], None),
        (NOISE, [CLEAN, record("uniform-noise", 0.03, 360)], None),
        (NOISE, [CLEAN, pgd(0.03, 200)], None),
        (VANISH, [record("fgsm", 0.03, 200, unmoved=0.0)], True),
        (VANISH, [record("fgsm", 0.03, 200, unmoved=0.01)], True),
        (VANISH, [record("fgsm", 0.03, 200, unmoved=0.0125)], False),
        (VANISH, [record("fgsm", 0.03, 200), record("fgsm", 0.07, 200, unmoved=1.0)], False),
        (VANISH, [pgd(0.03, 200, unmoved=1.0)], None),
        (VANISH, [CLEAN], None),
    ],
)
def test_a_check_at_its_thresholds(check, records, passed):
    assert outcome(check, records) is passed


@pytest.mark.parametrize("name", ATTACKS)
def test_the_white_box_worst_case_is_over_every_attack_that_follows_gradients(name):
    records = [pgd(0.03, 200), record(name, 0.03, 100, num_steps=50), transfer(0.03, 100)]
    assert outcome(TRANSFER, records) is ATTACKS.entries[name].gradient_based


GOOD = [
    CLEAN,
    *(record("fgsm", epsilon, 300) for epsilon in (0.03, 0.07)),
    *(record("bim", epsilon, 200) for epsilon in (0.03, 0.07)),
    *(pgd(epsilon, 200, 195) for epsilon in (0.03, 0.07)),
    *(pgd(epsilon, 195, 190, num_steps=200) for epsilon in (0.03, 0.07)),
    *(record("square", epsilon, 260) for epsilon in (0.03, 0.07)),
    *(record("uniform-noise", epsilon, 350) for epsilon in (0.03, 0.07)),
    *(transfer(epsilon, 320) for epsilon in (0.03, 0.07)),
    pgd(0.5, 0, 0),
]


def test_each_target_has_eight_checks_in_the_order_of_appearance():
    masked = [dataclasses.replace(r, unmoved=[1.0] * len(r.correct)) for r in GOOD]
    other = ModelCard(name="another", fingerprint="44")
    masked = [dataclasses.replace(record, target=other) for record in masked]
    found = masking_checks([*GOOD[:1], *masked, *GOOD[1:]])
    assert [(c.target, c.check) for c in found] == [
        (target, check) for target in ("mine", "another") for check in CHECKS
    ]
    assert [c.check for c in found if c.passed is not True] == [VANISH]
    assert found[-1] == found[-1].__class__(
        target="another",
        check=VANISH,
        passed=False,
        detail="at 0.03 unmoved by FGSM 100.0; at 0.07 unmoved by FGSM 100.0",
    )


def test_a_foreign_pgd_that_does_not_say_its_steps_answers_no_question_about_them():
    untold = [pgd(epsilon, 100, num_steps=None) for epsilon in (0.03, 0.07)]
    for check in (FALLS, LARGE_BALL, BUDGET):
        assert outcome(check, [CLEAN, *untold]) is None
    told = [pgd(0.03, 200), pgd(0.07, 100)]
    assert outcome(FALLS, [CLEAN, *untold, *told]) is True


def test_records_of_other_protocols_are_not_looked_at():
    others = [dataclasses.replace(record, protocol="paper") for record in GOOD]
    assert masking_checks(others) == []
    assert masking_checks([]) == []
    stranger = dataclasses.replace(record("fgsm", 0.03, 0, unmoved=1.0), protocol="white-box")
    assert all(check.passed for check in masking_checks([*GOOD, stranger]))


def test_nothing_but_clean_images_passes_nothing():
    assert {check.passed for check in masking_checks([CLEAN])} == {None}


def network(dataset, seed):
    """A small network, trained."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.AveragePooling2D(2)(pixels)
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    x = keras.layers.Conv2D(32, 3, strides=2, activation="relu")(x)
    model = keras.Model(pixels, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(dataset.train.images, dataset.train.labels, batch_size=32, epochs=3, verbose=0)
    return model


@tf.custom_gradient
def quantised(pixels):
    """Eight levels a channel, without a gradient."""
    return tf.round(pixels * 8) / 8, tf.zeros_like


def shattered(pixels):
    """Nearly the same pixels, with gradients that point anywhere."""
    return pixels + 0.05 * tf.sin(500 * pixels)


def masked(model, before=tf.identity, after=tf.identity):
    """A model that sees other pixels, or answers with other logits."""
    pixels = keras.Input((32, 32, 3))
    seen = keras.layers.Lambda(before, output_shape=(32, 32, 3))(pixels)
    return keras.Model(pixels, keras.layers.Lambda(after, output_shape=(10,))(model(seen)))


def reduced(case):
    """A case with fewer steps, restarts and queries."""
    fewer = {"restarts": {1: 1, 5: 2}, "num_steps": {50: 10, 200: 20}, "num_queries": {1000: 100}}
    attack = case.attack
    names = {field.name for field in dataclasses.fields(attack) if field.init} & set(fewer)
    changes = {name: fewer[name][getattr(attack, name)] for name in names}
    return case._replace(attack=dataclasses.replace(attack, **changes))


@pytest.mark.slow
def test_models_that_mask_their_gradients_fail_and_an_honest_one_passes():
    pytest.importorskip("art")
    dataset = parl_tf.load_dataset("digits", validation_fraction=0.0)
    honest, surrogate = network(dataset, 0), network(dataset, 1)
    targets = {
        "honest": honest,
        "saturated": masked(honest, after=lambda logits: 1e4 * logits),
        "quantised": masked(honest, before=quantised),
        "shattered": masked(honest, before=shattered),
    }
    records = evaluate_cases(
        targets,
        [reduced(case) for case in PROTOCOLS["diagnostics"].cases()],
        dataset.test.sample(64, seed=0),
        surrogates={"surrogate": surrogate},
        protocol="diagnostics",
    )
    checks = masking_checks(records)
    assert [c.target for c in checks] == [name for name in targets for _ in CHECKS]
    failed = {
        name: {c.check for c in checks if c.target == name and not c.passed} for name in targets
    }
    assert failed["honest"] == set()
    for name in ("saturated", "quantised"):
        assert failed[name] == {LARGE_BALL, TRANSFER, SEARCH, VANISH}, checks
    assert {ITERATIVE, FALLS} <= failed["shattered"]
    clean = {r.target.name: r.accuracy for r in records if r.attack == "clean"}
    assert np.ptp(list(clean.values())) < 0.05  # on clean images nothing shows
    assert min(clean.values()) > 0.85


@pytest.mark.parametrize(
    ("few", "measured"),
    [
        (pgd(0.03, 200, 180), "at 0.03 one start 50.0, 2 starts 45.0, 200 steps 44.0"),
        (pgd(0.03, 180), "at 0.03 one start 45.0, 200 steps 44.0"),
    ],
)
def test_starts_are_counted_where_there_are_several(few, measured):
    found = masking_checks([few, pgd(0.03, 176, num_steps=200)])
    assert next(entry.detail for entry in found if entry.check == BUDGET) == measured
