"""Names for the command line and the tests, resolved to objects only when asked for."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from parl_tf.arguments import check_choice


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
