"""Checks of arguments, and their accepted forms as the one that the package works with."""

import difflib
import numbers
from collections.abc import Iterable
from typing import Any

from parl_tf.errors import InputError


def check_choice(kind: str, name: object, choices: Iterable[str]) -> None:
    """Raises an error that names the choices if `name` is not one of them.

    Args:
        kind: What is chosen, for the message ("attack").
        name: The choice.
        choices: What can be chosen.

    Raises:
        InputError: `name` is not a choice; the message puts near matches first.
    """
    choices = list(choices)
    if name in choices:
        return
    near = difflib.get_close_matches(str(name), choices, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise InputError(
        f"Unknown {kind}.{hint} Expected one of {', '.join(choices)}. Received: {name!r}."
    )


def check_at_least(name: str, value: object, least: int) -> None:
    """Raises an error unless `value` is an integer of at least `least`.

    Args:
        name: What it is, for the message ("num_steps").
        value: The number.
        least: The smallest one allowed.

    Raises:
        InputError: `value` is smaller, or no integer.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise InputError(f"Expected {name} as an integer. Received: {value!r}.")
    if value < least:
        raise InputError(f"Expected {name} of at least {least}. Received: {value}.")


def check_seed(seed: int) -> None:
    """Raises InputError unless `seed` is an integer from 0 to 2**31 - 1."""
    if not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**31:
        raise InputError(f"Expected seed from 0 to {2**31 - 1}. Received: {seed}.")


def listed(given: Any) -> list[Any]:
    """What can be iterated over, as a list; anything else, and text, as a list of one."""
    single = isinstance(given, str | bytes) or not isinstance(given, Iterable)
    return [given] if single or getattr(given, "shape", None) == () else list(given)
