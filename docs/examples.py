"""Makes the reference recognise a docstring's "Example:"; enabled in mkdocs.yml.

griffe knows only the heading "Examples:", and would read the code under another one as prose.
"""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section before docstrings are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Renames it in one object's docstring."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
