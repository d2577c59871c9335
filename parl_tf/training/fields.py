"""Checks of JSON fields; messages name the invalid field as it appears in the file."""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from parl_tf.errors import InputError

_LONGEST = 100


def wrong(name: str, expected: str, value: object) -> InputError:
    """The error for a field with an unexpected value."""
    text = repr(value)
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return InputError(f"Expected {name} to be {expected}. Received: {shown}.")


def check_names(
    value: Mapping[str, Any],
    required: Collection[str],
    optional: Collection[str] = (),
    of: str = "",
) -> None:
    """Raises unless an object has all required fields and no unknown ones.

    Args:
        value: The object.
        required: Names of fields that it must have.
        optional: Names of fields that it may have.
        of: Prefix of the names in messages, such as "dataset.".

    Raises:
        InputError: A field is missing or unknown.
    """
    if missing := [name for name in required if name not in value]:
        raise InputError(f"Expected the field {of}{missing[0]}. Received: an object without it.")
    if unknown := [name for name in value if name not in {*required, *optional}]:
        known = ", ".join([*required, *optional])
        raise InputError(f"Unknown field {of}{unknown[0]}. Expected only {known}.")


def check_text(name: str, value: object) -> None:
    """Raises InputError unless a field is non-empty text."""
    if not isinstance(value, str) or not value:
        raise wrong(name, "text", value)


def check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raises InputError unless a field is an integer in a range."""
    if type(value) is not int or value < least or (most is not None and value > most):
        expected = f"at least {least}" if most is None else f"from {least} to {most}"
        raise wrong(name, f"an integer {expected}", value)


def check_number(name: str, value: object) -> None:
    """Raises InputError unless a field is a finite number."""
    try:
        finite = isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        finite = False
    if not finite or isinstance(value, bool):
        raise wrong(name, "a finite number", value)


def json_object(name: str, value: object) -> dict[str, Any]:
    """A field that is a JSON object, as a dictionary.

    Raises:
        InputError: The field is something else.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise wrong(name, "a JSON object", value)
    return dict(value)


def json_copy(name: str, value: object) -> dict[str, Any]:
    """A deep copy of a field that is a JSON object, as it would be read back from a file.

    Raises:
        InputError: The field is something else, or has values that JSON cannot represent.
    """
    given = json_object(name, value)
    try:
        copy = json.loads(json.dumps(given, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise wrong(name, f"made of JSON values ({error})", value) from error
    return json_object(name, copy)
