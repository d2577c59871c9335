"""Checks of arguments, and conversion to lists."""

import difflib
import numbers
from collections.abc import Iterable
from typing import Any

from parl_tf.errors import InputError


def check_choice(kind: str, name: object, choices: Iterable[str]) -> None:
    """Raises an error that lists the choices if `name` is not one of them.

    Args:
        kind: What is chosen, for the message ("attack").
        name: The given name.
        choices: The valid names.

    Raises:
        InputError: `name` is not one of them; the message suggests close matches.
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
        name: Name of the argument, for the message ("num_steps").
        value: The number.
        least: The smallest valid value.

    Raises:
        InputError: `value` is smaller or not an integer.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise InputError(f"Expected {name} to be an integer. Received: {value!r}.")
    if value < least:
        raise InputError(f"Expected {name} of at least {least}. Received: {value}.")


def check_seed(seed: int) -> None:
    """Raises InputError unless `seed` is an integer from 0 to 2**31 - 1."""
    if not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**31:
        raise InputError(f"Expected a seed from 0 to {2**31 - 1}. Received: {seed}.")


def listed(given: Any) -> list[Any]:
    """An iterable as a list; anything else, text included, as a list of one."""
    single = isinstance(given, str | bytes) or not isinstance(given, Iterable)
    return [given] if single or getattr(given, "shape", None) == () else list(given)
