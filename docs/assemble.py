"""Assembles the sources of the site in build/site: the pages of docs/, and those below.

- The reference: an entry for each name in `parl_tf.__all__`, on the page of the subpackage that
  the name comes from.
- README, CONTRIBUTING, SECURITY and CHANGELOG.

A public name in code, such as `parl_tf.PARL`, becomes a link to its entry. A name that a page uses
as public and that is not in `parl_tf.__all__` is an error. The package is read, not imported.
"""

import pathlib
import re
import shutil
import sys

import griffe

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
OUT = ROOT / "build" / "site"

# Page of the reference: title, and the subpackages whose names it shows; "" is the package itself.
REFERENCE = {
    "methods": ("Methods", ("defences",)),
    "attacks": ("Attacks and protocols", ("attacks", "protocols")),
    "networks": ("Networks", ("models", "graphs")),
    "data": ("Data", ("data",)),
    "training": ("Training", ("training", "runtime")),
    "evaluation": ("Evaluation", ("evaluation", "results")),
    "diversity": ("Diversity", ("diversity",)),
    "reports": ("Reports", ("report", "reproduction")),
    "errors": ("Errors and version", ("errors", "")),
}

# Files beside docs/ that become pages.
BESIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}


class PageError(Exception):
    """A page contradicts the package."""


def public_names() -> dict[str, str]:
    """Every name of `parl_tf.__all__`, and the subpackage that it comes from."""
    package = griffe.load("parl_tf", search_paths=[ROOT], allow_inspection=False)
    sources = {}
    for name in map(str, package.exports or ()):
        if name not in package.members:
            raise PageError(f"parl_tf.__all__ has {name}, which parl_tf/__init__.py lacks.")
        path = package.members[name].canonical_path.split(".")
        sources[name] = path[1] if len(path) > 2 else ""
    return sources


def reference(names: dict[str, str]) -> dict[str, str]:
    """The pages of the reference, from path to text."""
    known = {source for _, shown in REFERENCE.values() for source in shown}
    unplaced = sorted(name for name, source in names.items() if source not in known)
    if unplaced:
        raise PageError(
            f"Expected names from the subpackages in REFERENCE of docs/assemble.py. "
            f"Received: {', '.join(f'{name} from parl_tf.{names[name]}' for name in unplaced)}."
        )
    pages = {}
    for page, (title, shown) in REFERENCE.items():
        entries = [f"::: parl_tf.{name}" for name, source in names.items() if source in shown]
        pages[f"reference/{page}.md"] = "\n\n".join([f"# {title}", *entries, ""])
    return pages


def relinked(text: str) -> str:
    """A page of docs/ or a file beside it, with links to where each page is in the site."""
    text = text.replace("](docs/", "](")
    for file, page in BESIDE.items():
        text = text.replace(f"]({file}", f"]({page}").replace(f"](../{file}", f"]({page}")
    return text


def linked(path: str, text: str, names: dict[str, str]) -> str:
    """A page with links from public names to their entries.

    Raises:
        PageError: A name of the package, in a line of text or in a block of Python, is not public.
    """

    def check(name: str) -> None:
        if name not in names:
            raise PageError(f"{path}: Expected a name in parl_tf.__all__. Received: parl_tf.{name}")

    def link(match: re.Match) -> str:
        check(match["name"])
        return f"[{match[0]}][parl_tf.{match['name']}]"

    blocks = re.split(r"(^ *```.*?^ *```)", text, flags=re.DOTALL | re.MULTILINE)
    for index, block in enumerate(blocks):
        if index % 2 == 0:
            blocks[index] = re.sub(r"(?<!\[)`parl_tf\.(?P<name>\w+)`", link, block)
        elif path != "contributing.md":  # which shows the package's internals
            for name in re.findall(r"\bparl_tf\.(\w+)", block):
                check(name)
    return "".join(blocks)


def assemble() -> None:
    """Writes build/site anew."""
    names = public_names()
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.copytree(DOCS, OUT, ignore=shutil.ignore_patterns("*.py"))
    files = {str(path.relative_to(DOCS)): path for path in DOCS.rglob("*.md")}
    files |= {page: ROOT / file for file, page in BESIDE.items()}
    pages = reference(names)
    for page, file in files.items():
        pages[page] = linked(page, relinked(file.read_text(encoding="utf-8")), names)
    for path, text in pages.items():
        (OUT / path).parent.mkdir(exist_ok=True)
        (OUT / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        assemble()
    except PageError as error:
        sys.exit(f"error: {error}")
