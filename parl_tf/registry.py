"""Names for the command line and the tests, resolved to objects only when asked for."""

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
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


class Registry(Mapping[str, Any]):
    """A mapping from names to objects that imports an object's module on first use.

    Listing the names imports nothing, so `--help` can show them without TensorFlow.

    Args:
        kind: What is registered, for messages ("method", "attack").
        entries: name -> "package.module:Attribute".
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Any:
        """Returns the object called `name`; raises InputError for an unknown one."""
        check_choice(self.kind, name, self._entries)
        module, attribute = self._entries[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
