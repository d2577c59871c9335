"""Names that resolve to objects on first use."""

import importlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

from parl_tf.arguments import check_choice

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry]):
    """A read-only mapping from names to objects, each imported on first use.

    Listing the names imports nothing, so `--help` can show them without TensorFlow.

    Args:
        kind: What is registered, for error messages ("method", "attack").
        entries: name -> "package.module:attribute".
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Entry:
        """The object registered as `name`; raises InputError for an unknown name."""
        check_choice(self.kind, name, self._entries)
        module, attribute = self._entries[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
