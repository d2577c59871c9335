"""What the registry says of each attack, against its class and against what it asks of a model."""

import dataclasses

import pytest
import tensorflow as tf

from parl_tf.attacks import ATTACKS, PAPER_ATTACKS, AttackEntry, names
from parl_tf.attacks.base import Attack, Batch
from parl_tf.attacks.gradient import GradientAttack
from parl_tf.attacks.momentum import MomentumAttack
from parl_tf.errors import InputError

SHORT = {"num_steps": 2, "num_queries": 10, "num_starts": 2}


def fields_of(attack):
    return {field.name for field in dataclasses.fields(attack) if field.init}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_entry_agrees_with_its_class(name):
    entry, attack = ATTACKS.entries[name], ATTACKS[name]
    assert attack.name == name
    assert entry.gradient_based == issubclass(attack, GradientAttack)
    assert entry.takes_restarts == ("restarts" in fields_of(attack))
    assert entry.one_step == (entry.gradient_based and "num_steps" not in fields_of(attack))
    own_view = attack.view is not Attack.view
    assert entry.transfer_oriented == (issubclass(attack, MomentumAttack) or own_view)
    assert entry.takes_restarts or not attack.random_start


@pytest.mark.parametrize("name", ATTACKS)
def test_an_entry_agrees_with_what_the_attack_asks_of_the_model(name):
    asked = {"predictions": 0, "gradients": 0}

    @tf.custom_gradient
    def answers(images):
        asked["predictions"] += 1

        def gradient(upstream):
            asked["gradients"] += 1
            return tf.ones_like(images)

        colours = tf.reduce_mean(images, axis=[1, 2])
        return tf.nn.log_softmax(colours)[tf.newaxis], gradient

    images = tf.random.stateless_uniform((3, 8, 8, 3), [0, 1])
    labels = tf.argmax(answers(images)[0], axis=-1)
    keys = tf.reshape(tf.range(6), (3, 2))
    asked.update(predictions=0, gradients=0)
    attack = ATTACKS[name]
    attack = attack(**{key: SHORT[key] for key in fields_of(attack) & set(SHORT)})
    attack.perturb(answers, Batch(images, labels, images, tf.constant(0.1), keys))
    entry = ATTACKS.entries[name]
    assert (asked["gradients"] > 0) == entry.gradient_based
    assert (asked["predictions"] == 0) == entry.control


def test_labels_tell_attacks_apart():
    labels = [entry.label for entry in ATTACKS.entries.values()]
    assert all(labels)
    assert len(set(labels)) == len(labels) == len(ATTACKS)


def test_the_paper_s_columns_are_fgsm_bim_mim_and_pgd():
    assert PAPER_ATTACKS == ("fgsm", "bim", "mim", "pgd")


def test_names_that_are_singled_out_are_registered():
    singled_out = {key: value for key, value in vars(names).items() if key.isupper()}
    assert singled_out
    for key, value in singled_out.items():
        assert value in ATTACKS
        assert key == value.upper().replace("-", "_")


def test_a_name_that_is_taken_cannot_be_registered_again():
    entry = AttackEntry(path="nowhere:Mine", label="mine", gradient_based=True)
    with pytest.raises(InputError, match="Expected a new attack name. Received: 'pgd'"):
        ATTACKS.register("pgd", entry)
    assert ATTACKS["pgd"].name == "pgd"
    assert ATTACKS.entries["pgd"].label == "PGD"
