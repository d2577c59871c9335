"""Arguments of an evaluation: every accepted form converted to one."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from parl_tf.arguments import listed
from parl_tf.attacks.base import Attack, strength
from parl_tf.errors import InputError
from parl_tf.evaluation.cases import Case


def named_models(kind: str, models: Mapping[str, keras.Model] | keras.Model) -> dict[str, Any]:
    """Models by name; a single one under its own name.

    Args:
        kind: What they are, for messages ("targets").
        models: A mapping of name to model, or a single model.

    Raises:
        InputError: Neither a mapping nor a model.
    """
    if isinstance(models, keras.Model):
        return {models.name: models}
    if not isinstance(models, Mapping):
        raise InputError(
            f"Expected {kind} as a mapping of name to model, such as {{'parl': ensemble}}, or a "
            f"single model. Received: {models!r}."
        )
    return dict(models)


def attack_list(attacks: Sequence[Attack] | Attack) -> list[Attack]:
    """Attacks as a list; a single one becomes a list of one.

    Raises:
        InputError: Something that is not an attack.
    """
    given = listed(attacks)
    for attack in given:
        check_attack(attack)
    return given


def check_attack(attack: object) -> None:
    """Raises InputError unless `attack` is an attack."""
    if isinstance(attack, Attack):
        return
    hint = ""
    if isinstance(attack, type) and issubclass(attack, Attack):
        hint = f" Make an instance: {attack.__name__}()."
    raise InputError(f"Expected attacks such as parl_tf.FGSM(). Received: {attack!r}.{hint}")


def strengths(epsilons: Sequence[float] | float) -> list[float]:
    """Strengths as a list; a single one becomes a list of one.

    Raises:
        InputError: Something that is not a number.
    """
    return [strength(epsilon) for epsilon in listed(epsilons)]


def case_list(cases: Sequence[Case] | Case) -> list[Case]:
    """Cases as a list; a single one becomes a list of one, and a tuple of three is a case.

    Raises:
        InputError: Something that is not a case.
    """
    given = [cases] if isinstance(cases, Case) else listed(cases)
    found = []
    for case in given:
        if not isinstance(case, tuple) or len(case) != len(Case._fields):
            raise InputError(
                f"Expected cases such as Case('white_box', parl_tf.FGSM(), 8 / 255). "
                f"Received: {case!r}."
            )
        case = Case(*case)
        check_attack(case.attack)
        found.append(case._replace(epsilon=strength(case.epsilon)))
    return found
