import keras
import numpy as np
import pytest
from networks import examples, plain_network, residual_network

import parl_tf
from parl_tf.attacks.bim import BIM
from parl_tf.attacks.fgsm import FGSM
from parl_tf.attacks.pgd import PGD
from parl_tf.errors import InputError
from parl_tf.evaluation import evaluate_robustness

ENSEMBLE = parl_tf.Ensemble([residual_network(0), plain_network(1), residual_network(2)])
SINGLE = plain_network(3)
SURROGATE = parl_tf.Ensemble([plain_network(4), plain_network(5)])
TARGETS = {"ensemble": ENSEMBLE, "single": SINGLE}
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


def test_black_box_crafts_on_the_surrogate_and_judges_every_target():
    attacks = [FGSM(), PGD(num_steps=3, restarts=2)]
    records = evaluate_robustness(
        TARGETS,
        attacks,
        [0.05, 0.1],
        (IMAGES, LABELS),
        surrogate=SURROGATE,
        surrogate_name="other",
        seed=7,
        batch_size=8,
    )
    assert len(records) == 2 + 2 * 2 * 2
    for record in records:
        target = TARGETS[record.target]
        if record.attack == "clean":
            assert (record.threat_model, record.surrogate, record.epsilon) == ("clean", None, 0)
            assert record.correct == [right(target, IMAGES).tolist()]
            continue
        assert (record.threat_model, record.surrogate) == ("black_box", "other")
        attack = attacks[record.attack == "pgd"]
        for restart, mask in enumerate(record.correct):
            adversarial = attack(
                SURROGATE, IMAGES, LABELS, epsilon=record.epsilon, seed=7, restart=restart
            )
            assert mask == right(target, adversarial).tolist()
        assert len(record.correct) == attack.restarts
        assert record.num_examples == 21


def test_white_box_crafts_on_each_target_itself():
    records = evaluate_robustness(TARGETS, [BIM(num_steps=5)], [0.1], (IMAGES, LABELS))
    attacked = [record for record in records if record.attack == "bim"]
    assert [record.target for record in attacked] == ["ensemble", "single"]
    for record in attacked:
        assert (record.threat_model, record.surrogate) == ("white_box", None)
        model = TARGETS[record.target]
        adversarial = BIM(num_steps=5)(model, IMAGES, LABELS, epsilon=0.1)
        assert record.correct == [right(model, adversarial).tolist()]


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


def test_a_model_that_returns_nan_is_an_error_not_a_result():
    broken = plain_network(9)
    broken.set_weights([weight * np.nan for weight in broken.get_weights()])
    with pytest.raises(InputError, match="returned NaN"):
        evaluate_robustness({"broken": broken}, [], [], (IMAGES, LABELS))


OTHER_CLASSES = keras.Sequential(
    [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(7)]
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": {}}, "mapping of name to model"),
        ({"targets": [ENSEMBLE]}, "mapping of name to model"),
        ({"targets": {"a": ENSEMBLE, "b": OTHER_CLASSES}}, "one image shape and number of classes"),
        ({"surrogate": OTHER_CLASSES}, "one image shape and number of classes"),
        ({"targets": {"a": "parl.keras"}}, "functional Keras model"),
        ({"epsilons": [0.1, -0.1]}, "epsilon in"),
        ({"data": (IMAGES * 2, LABELS)}, r"pixels in \[0, 1\]"),
        ({"data": (IMAGES, LABELS + 4)}, "labels from 0 to 3"),
        ({"data": (IMAGES[:, :4], LABELS)}, "images of shape"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed from 0"),
        ({"attacks": ["fgsm"]}, "attacks such as"),
    ],
)
def test_refuses_bad_input_before_the_first_attack(changes, message):
    arguments = {
        "targets": {"a": ENSEMBLE},
        "attacks": [FGSM()],
        "epsilons": [0.1],
        "data": (IMAGES, LABELS),
        "on_progress": lambda *_: pytest.fail("an attack began"),
        **changes,
    }
    with pytest.raises(InputError, match=message):
        evaluate_robustness(**arguments)
