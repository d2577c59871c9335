"""Arguments in every accepted form, as the one that the package works with."""

from collections.abc import Iterable
from typing import Any


def listed(given: Any) -> list[Any]:
    """What can be iterated over, as a list; anything else, and text, as a list of one."""
    single = isinstance(given, str | bytes) or not isinstance(given, Iterable)
    return [given] if single or getattr(given, "shape", None) == () else list(given)
