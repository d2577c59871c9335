"""Has the reference take a docstring's "Example:" for what it is; mkdocs.yml names it.

griffe knows the section as "Examples:" alone, and would read the code in another as prose.
"""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section before docstrings are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Renames it in the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
