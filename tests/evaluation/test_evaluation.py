import dataclasses
import json

import keras
import numpy as np
import pytest
from harness.networks import NUM_CLASSES, examples, plain_network, residual_network
from harness.run_configs import run_config

import parl_tf
from parl_tf.attacks import base
from parl_tf.attacks.iterative import BIM, FGSM, PGD
from parl_tf.attacks.uniform_noise import UniformNoise
from parl_tf.data.examples import Split
from parl_tf.errors import ExistingRunError, InputError, UnreadableFileError
from parl_tf.evaluation import judging
from parl_tf.evaluation.cases import Case
from parl_tf.evaluation.robustness import evaluate_cases, evaluate_robustness
from parl_tf.provenance import fingerprint, weights_fingerprint
from parl_tf.results.files import load_records

ENSEMBLE = parl_tf.Ensemble([residual_network(0), plain_network(1), residual_network(2)])
SINGLE = plain_network(3)
SURROGATE = parl_tf.Ensemble([plain_network(4), plain_network(5)])
SECOND = plain_network(6)
TARGETS = {"ensemble": ENSEMBLE, "single": SINGLE}
SURROGATES = {"other": SURROGATE, "second": SECOND}
IMAGES, LABELS = examples(21)


def right(model, images):
    """Whether a model's vote is right, worked out from plain predictions."""
    members = getattr(model, "members", [model])
    votes = np.stack([np.argmax(member(images, training=False), axis=1) for member in members])
    probability = sum(
        keras.ops.softmax(member(images, training=False)).numpy() for member in members
    )
    winners = []
    for ballots, likely in zip(votes.T, probability, strict=True):
        counts = np.bincount(ballots, minlength=4)
        leading = np.flatnonzero(counts == counts.max())
        winners.append(leading[likely[leading].argmax()])
    return (np.array(winners) == LABELS).astype(int)


def timeless(records):
    """Records without what differs from run to run."""
    return [dataclasses.replace(record, seconds=0.0) for record in records]


@pytest.fixture
def crafted(monkeypatch):
    """The (epsilon, restart, first image) of every batch crafted from here on."""
    calls, call = [], base.Crafter.__call__

    def counted(self, *arguments, **options):
        calls.append((options["epsilon"], options["restart"], options["first_index"]))
        return call(self, *arguments, **options)

    monkeypatch.setattr(base.Crafter, "__call__", counted)
    return calls


@pytest.fixture
def no_crafting(monkeypatch):
    """From here on nothing may be crafted."""

    def refuse(*_, **__):
        pytest.fail("something was crafted")

    monkeypatch.setattr(base.Crafter, "__init__", refuse)


def test_black_box_crafts_on_each_surrogate_and_judges_every_target():
    attacks = [FGSM(), PGD(num_steps=3, restarts=2)]
    records = evaluate_robustness(
        TARGETS,
        attacks,
        [0.05, 0.1],
        (IMAGES, LABELS),
        surrogates=SURROGATES,
        seed=7,
        batch_size=8,
    )
    crafters = {
        (name, attack.name): attack.prepare(model)
        for name, model in SURROGATES.items()
        for attack in attacks
    }
    assert len(records) == 2 + 2 * 2 * 2 * 2
    assert len({record.key for record in records}) == len(records)
    for record in records:
        target = TARGETS[record.target.name]
        if record.attack == "clean":
            assert (record.threat_model, record.surrogate, record.epsilon) == ("clean", None, 0)
            assert record.correct == [right(target, IMAGES).tolist()]
            continue
        assert record.threat_model == "black_box"
        attack = attacks[record.attack == "pgd"]
        assert record.hyperparameters == dataclasses.asdict(attack)
        for restart, mask in enumerate(record.correct):
            craft = crafters[record.surrogate.name, record.attack]
            adversarial = craft(IMAGES, LABELS, epsilon=record.epsilon, seed=7, restart=restart)
            assert mask == right(target, adversarial).tolist()
        assert len(record.correct) == attack.restarts
        assert record.num_examples == 21


def test_a_surrogate_is_crafted_on_once_for_all_targets(crafted):
    evaluate_robustness(
        TARGETS, [PGD(num_steps=1, restarts=2)], [0.1], (IMAGES, LABELS), surrogates=SURROGATES
    )
    assert crafted == [(0.1, 0, 0), (0.1, 1, 0)] * 2


def test_white_box_crafts_on_each_target_itself():
    records = evaluate_robustness(TARGETS, [BIM(num_steps=5)], [0.1], (IMAGES, LABELS))
    attacked = [record for record in records if record.attack == "bim"]
    assert [record.target.name for record in attacked] == ["ensemble", "single"]
    for record in attacked:
        assert (record.threat_model, record.surrogate) == ("white_box", None)
        model = TARGETS[record.target.name]
        adversarial = BIM(num_steps=5)(model, IMAGES, LABELS, epsilon=0.1)
        assert record.correct == [right(model, adversarial).tolist()]


def test_cases_of_both_threat_models_at_once():
    cases = [Case("black_box", FGSM(), 0.1), Case("white_box", FGSM(), 0.1)]
    records = evaluate_cases(TARGETS, cases, (IMAGES, LABELS), surrogates=SURROGATES)
    found = [(r.threat_model, r.target.name, r.surrogate and r.surrogate.name) for r in records[2:]]
    assert found == [
        ("black_box", "ensemble", "other"),
        ("black_box", "single", "other"),
        ("black_box", "ensemble", "second"),
        ("black_box", "single", "second"),
        ("white_box", "ensemble", None),
        ("white_box", "single", None),
    ]


def test_records_say_what_was_evaluated_on_what():
    config = run_config("parl", 3)
    records = evaluate_robustness(
        {"single": SINGLE},
        [FGSM()],
        [0.1],
        Split(IMAGES, LABELS),
        surrogates={"other": SURROGATE},
        protocol="mine",
        seed=5,
        batch_size=9,
        configs={"single": config},
        data_description={"name": "random", "fingerprint": "mine", "num_examples": 3},
    )
    for record in records:
        assert record.target.fingerprint == weights_fingerprint(SINGLE)
        assert record.target.config == config
        assert record.data == {
            "name": "random",
            "num_examples": 21,
            "fingerprint": fingerprint(IMAGES, LABELS.astype("int64")),
        }
        assert (record.protocol, record.seed, record.batch_size) == ("mine", 5, 9)
        assert record.versions["keras"] == keras.__version__
        assert record.seconds > 0
    assert records[1].surrogate.fingerprint == weights_fingerprint(SURROGATE)
    assert records[1].surrogate.config is None


def test_fingerprints_tell_weights_images_and_labels_apart():
    other = plain_network(3)
    assert weights_fingerprint(other) == weights_fingerprint(SINGLE)
    weights = other.get_weights()
    weights[-1][0] = np.nextafter(weights[-1][0], np.float32(1))
    other.set_weights(weights)
    prints = [weights_fingerprint(model) for model in (other, SINGLE, ENSEMBLE, SURROGATE)]
    brighter = IMAGES.copy()
    brighter[20, 7, 7, 2] = np.nextafter(brighter[20, 7, 7, 2], np.float32(2))
    prints += [
        fingerprint(IMAGES, LABELS),
        fingerprint(brighter, LABELS),
        fingerprint(IMAGES[::-1], LABELS),
        fingerprint(IMAGES, LABELS[::-1]),
        fingerprint(IMAGES.reshape(21, 8, 24, 1), LABELS),
        fingerprint(LABELS, IMAGES),
    ]
    assert len(set(prints)) == len(prints)
    assert all(len(found) == 16 for found in prints)
    assert fingerprint(np.asfortranarray(IMAGES), LABELS) == fingerprint(IMAGES, LABELS)


def test_each_restart_has_its_own_entries():
    attack = UniformNoise(restarts=3)
    (_, record) = evaluate_robustness(
        {"e": ENSEMBLE}, [attack], [0.5], (IMAGES, LABELS), batch_size=6
    )
    assert len(record.correct) == 3
    for restart in range(3):
        images = attack(ENSEMBLE, IMAGES, LABELS, epsilon=0.5, restart=restart)
        votes = np.stack([np.argmax(m(images, training=False), axis=1) for m in ENSEMBLE.members])
        mean = np.argmax(ENSEMBLE(images, training=False), axis=1)
        assert record.correct[restart] == right(ENSEMBLE, images).tolist()
        assert record.mean_right[restart] == pytest.approx((mean == LABELS).mean())
        assert record.tied[restart] == np.mean([len(set(ballots)) == 3 for ballots in votes.T])
        assert record.unmoved[restart] == 0


def test_images_that_an_attack_leaves_alone_are_counted():
    # The logits look at the left half only, and not at all where it is dark.
    pixels = keras.Input((8, 8, 3))
    left = keras.layers.Cropping2D(((0, 0), (0, 4)))(pixels)
    dense = keras.layers.Dense(NUM_CLASSES)(
        keras.layers.Flatten()(keras.layers.ReLU(6, 0, 0.5)(left))
    )
    model = keras.Model(pixels, dense)
    images = IMAGES / 2 + 0.5
    images[:5] *= 0.9 * 0.5
    (clean, record) = evaluate_robustness(
        {"m": model}, [FGSM()], [0.01], (images, LABELS), batch_size=4
    )
    assert clean.unmoved == [1.0]
    assert record.unmoved == [pytest.approx(5 / 21)]


def test_ties_and_the_mean_probability_are_reported():
    (record,) = evaluate_robustness({"e": ENSEMBLE}, [], [], (IMAGES, LABELS), batch_size=5)
    votes = np.stack([np.argmax(m(IMAGES, training=False), axis=1) for m in ENSEMBLE.members])
    three_ways = [len(set(ballots)) == 3 for ballots in votes.T]
    assert record.tie_rate == pytest.approx(np.mean(three_ways))
    mean = np.argmax(ENSEMBLE(IMAGES, training=False), axis=1) == LABELS
    assert record.mean_probability_accuracy == pytest.approx(mean.mean())


def test_progress_ends_at_one_and_never_falls():
    seen = []
    evaluate_robustness(
        TARGETS,
        [FGSM(), PGD(num_steps=1, restarts=2)],
        [0.1, 0.2],
        (IMAGES, LABELS),
        batch_size=10,
        on_progress=lambda description, done: seen.append((description, done)),
    )
    parts = [done for _, done in seen]
    assert parts == sorted(parts)
    assert parts[-1] == 1
    assert "pgd at 0.2 on single" in seen[-1][0]


def test_a_model_that_returns_nan_is_an_error_not_a_result(tmp_path):
    broken = plain_network(9)
    broken.set_weights([weight * np.nan for weight in broken.get_weights()])
    for models in ({"targets": {"broken": broken}}, {"surrogates": {"broken": broken}}):
        with pytest.raises(InputError, match=r"[Ee]xpected finite logits"):
            evaluate_robustness(
                **{"targets": {"e": ENSEMBLE}, "surrogates": None, **models},
                attacks=[FGSM()],
                epsilons=[0.1],
                data=(IMAGES, LABELS),
                out=tmp_path / "results.json",
            )
    # What was measured before the surrogate was asked stays, and is no finished evaluation.
    assert not json.loads((tmp_path / "results.json").read_text())["finished"]
    assert [record.attack for record in load_records(tmp_path / "results.json")] == ["clean"]


ATTACKS = [UniformNoise(restarts=3), FGSM()]
TWO = {"single": SINGLE, "pair": SURROGATE}
PLAIN = {"other": SECOND, "second": plain_network(7)}
RESTARTS = [  # of an uninterrupted evaluation, in their order
    *((epsilon, restart) for _ in PLAIN for epsilon in (0.1, 0.2) for restart in range(3)),
    *((epsilon, 0) for _ in PLAIN for epsilon in (0.1, 0.2)),
]


def evaluate(**changes):
    """An evaluation of all kinds of records, in one batch a restart."""
    arguments = {
        "targets": TWO,
        "attacks": ATTACKS,
        "epsilons": [0.1, 0.2],
        "data": (IMAGES, LABELS),
        "surrogates": PLAIN,
        "seed": 3,
        **changes,
    }
    return evaluate_robustness(**arguments)


@pytest.fixture(scope="module")
def uninterrupted():
    """Its records, when nothing interrupts it."""
    return timeless(evaluate())


class Stop(Exception):
    """What interrupts."""


def stop_after(restarts):
    """An on_progress that stops an evaluation in the restart behind so many."""

    def on_progress(_, done):
        if done * len(RESTARTS) > restarts + 0.5:
            raise Stop

    return on_progress


@pytest.mark.parametrize("restarts", [0, 1, 3, 8, 15])
def test_an_interrupted_evaluation_goes_on_where_it_stopped(
    tmp_path, crafted, uninterrupted, restarts
):
    out = tmp_path / "results.json"
    with pytest.raises(Stop):
        evaluate(out=out, on_progress=stop_after(restarts))
    assert not json.loads(out.read_text())["finished"]
    before = load_records(out)
    assert sum(len(r.correct) for r in before if r.attack != "clean") == restarts * len(TWO)
    crafted.clear()
    seen = []
    records = evaluate(out=out, on_progress=lambda _, done: seen.append(done))
    assert [call[:2] for call in crafted] == RESTARTS[restarts:]
    assert timeless(records) == uninterrupted
    assert load_records(out) == records
    whole = [r for r in before if len(r.correct) == r.hyperparameters.get("restarts", 1)]
    assert all(record in records for record in whole)  # and their seconds
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_an_evaluation_interrupted_again_and_again(tmp_path, uninterrupted):
    out = tmp_path / "results.json"
    for restarts in range(0, len(RESTARTS), 2):
        with pytest.raises(Stop):
            evaluate(out=out, on_progress=stop_after(restarts))
    assert timeless(evaluate(out=out)) == uninterrupted


def test_an_error_in_judging_keeps_the_restarts_before(tmp_path, monkeypatch, uninterrupted):
    out = tmp_path / "results.json"
    judge = judging.Judge.__call__
    calls = []

    def fail_at_the_tenth(self, *arguments):
        calls.append(self)
        if len(calls) == 10:  # two clean ones, then two a restart
            raise MemoryError
        return judge(self, *arguments)

    monkeypatch.setattr(judging.Judge, "__call__", fail_at_the_tenth)
    with pytest.raises(MemoryError):
        evaluate(out=out)
    assert sum(len(r.correct) for r in load_records(out) if r.attack != "clean") == 3 * 2
    assert timeless(evaluate(out=out)) == uninterrupted


def test_a_finished_evaluation_runs_nothing(tmp_path, monkeypatch):
    out = tmp_path / "results.json"
    records = evaluate(out=out)
    before = out.read_bytes()
    monkeypatch.setattr(base.Crafter, "__init__", lambda *_: pytest.fail("crafted"))
    monkeypatch.setattr(judging.Judge, "__call__", lambda *_: pytest.fail("judged"))
    assert evaluate(out=out) == records
    assert out.read_bytes() == before


def test_a_further_target_is_added_to_a_finished_evaluation(tmp_path, uninterrupted):
    out = tmp_path / "results.json"
    alone = evaluate(out=out, targets={"single": SINGLE})
    records = evaluate(out=out)
    assert records[: len(alone)] == alone
    assert {record.key: record for record in timeless(records)} == {
        record.key: record for record in uninterrupted
    }
    with pytest.raises(ExistingRunError, match="targets"):
        evaluate(out=out, targets={"single": SINGLE})


OTHER_WEIGHTS = plain_network(8)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"epsilons": [0.1]}, "cases"),
        ({"epsilons": [0.1, 0.25]}, "cases"),
        ({"attacks": [UniformNoise(restarts=4), FGSM()]}, "cases"),
        ({"attacks": [FGSM()]}, "cases"),
        ({"seed": 4}, "seed"),
        ({"batch_size": 21}, "batch_size"),
        ({"protocol": "paper"}, "protocol"),
        ({"targets": {**TWO, "single": OTHER_WEIGHTS}}, "targets"),
        ({"targets": {"renamed": SURROGATE, "single": SINGLE}}, "targets"),
        ({"surrogates": {**PLAIN, "second": OTHER_WEIGHTS}}, "surrogates"),
        ({"surrogates": {"other": SECOND}}, "surrogates"),
        ({"surrogates": None}, "cases"),
        ({"data": (IMAGES[::-1], LABELS)}, "data"),
        ({"data": (IMAGES, (LABELS + 1) % 4)}, "data"),
        ({"data_description": {"name": "other"}}, "data"),
    ],
)
def test_another_evaluation_in_the_same_file_is_refused(tmp_path, no_crafting, changes, difference):
    out = tmp_path / "results.json"
    with pytest.raises(pytest.fail.Exception):
        evaluate(out=out)  # stops at its first attack
    before = out.read_bytes()
    with pytest.raises(ExistingRunError, match=f"its {difference} is .* nothing was changed"):
        evaluate(out=out, **changes)
    assert out.read_bytes() == before


def test_a_file_of_something_else_stays(tmp_path, no_crafting):
    for text in ("", '{"format": 1, "records": []}', "notes of mine"):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(UnreadableFileError, match=r"results\.json"):
            evaluate(out=tmp_path / "results.json")
        assert (tmp_path / "results.json").read_text() == text
    with pytest.raises(ExistingRunError, match="cannot be written"):
        evaluate(out=tmp_path)


def test_epsilons_and_cases_given_twice_are_run_once(crafted):
    records = evaluate(epsilons=[0.1, np.float64(0.1)], attacks=[FGSM(), FGSM()])
    assert len(records) == 2 + 2 * 2
    assert len(crafted) == 2


def test_numbers_of_numpy_are_written_too(tmp_path):
    cases = [Case("white_box", FGSM(), np.float32(0.1))]
    out = tmp_path / "results.json"
    numbers = {"seed": np.int64(3), "batch_size": np.int64(9)}
    evaluate_cases({"single": SINGLE}, cases, (IMAGES, LABELS), out=out, **numbers)
    (_, record) = load_records(out)
    assert record.epsilon == float(np.float32(0.1))
    assert (record.seed, record.batch_size) == (3, 9)


OTHER_CLASSES = keras.Sequential(
    [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(7)]
)
OTHER_IMAGES = keras.Sequential(
    [keras.Input((9, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4)]
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": {}}, "mapping of name to model"),
        ({"targets": [ENSEMBLE]}, "mapping of name to model"),
        ({"targets": {"a": ENSEMBLE, "b": OTHER_CLASSES}}, "one image shape and number of classes"),
        ({"targets": {"a": OTHER_IMAGES}}, "images of shape"),
        ({"surrogates": {"s": OTHER_CLASSES}}, "one image shape and number of classes"),
        ({"surrogates": {"s": OTHER_IMAGES}}, "one image shape and number of classes"),
        ({"surrogates": {"a": ENSEMBLE}}, r"surrogates that are not targets. Received: \['a'\]"),
        ({"surrogates": {"s": "parl.keras"}}, "functional Keras model"),
        ({"surrogates": "parl.keras"}, "surrogates as a mapping"),
        ({"surrogates": [SURROGATE]}, "surrogates as a mapping"),
        ({"targets": {"a": "parl.keras"}}, "functional Keras model"),
        ({"epsilons": [0.1, -0.1]}, "epsilon in"),
        ({"epsilons": [0.1, float("nan")]}, "epsilon in"),
        ({"attacks": [BIM(step_size=0.2)]}, "step_size of at most epsilon"),
        ({"data": (IMAGES * 2, LABELS)}, r"pixels in \[0, 1\]"),
        ({"data": (IMAGES, LABELS + 4)}, "labels from 0 to 3"),
        ({"data": (IMAGES[:, :4], LABELS)}, "images of shape"),
        ({"data": (IMAGES[:0], LABELS[:0])}, "n > 0|at least one|n, height|images"),
        ({"data": (IMAGES, LABELS[:-1])}, "integer labels"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed from 0"),
        ({"attacks": ["fgsm"]}, "attacks such as"),
        ({"data_description": {"name": object()}}, "JSON"),
    ],
)
def test_refuses_bad_input_before_the_first_attack(tmp_path, changes, message):
    arguments = {
        "targets": {"a": ENSEMBLE},
        "attacks": [FGSM()],
        "epsilons": [0.1],
        "data": (IMAGES, LABELS),
        "on_progress": lambda *_: pytest.fail("an attack began"),
        "out": tmp_path / "results.json",
        "examples_out": tmp_path / "examples",
        **changes,
    }
    with pytest.raises(InputError, match=message):
        evaluate_robustness(**arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case("black_box", FGSM(), 0.1), "surrogates to craft examples on. Received: none"),
        (Case("grey_box", FGSM(), 0.1), "Unknown threat model"),
        (Case("clean", FGSM(), 0.1), "Unknown threat model"),
        (Case("white_box", FGSM(), 0), "epsilon in"),
        (Case("white_box", FGSM, 0.1), "attacks such as"),
    ],
)
def test_refuses_cases_that_cannot_be_run(case, message):
    with pytest.raises(InputError, match=message):
        evaluate_cases(TARGETS, [case], (IMAGES, LABELS))
