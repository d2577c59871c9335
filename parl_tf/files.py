"""Files that are either whole or not there, whatever happens while they are written."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EBADF)


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A file to write, which takes the place of another once it is on the disk.

    What was there stays if writing fails, or if the process or the machine stops meanwhile. One
    process at a time may write a path.

    Args:
        path: Where the file is to be.

    Yields:
        Where to write it: beside `path`, with the same ending.

    Raises:
        OSError: There is no space left, or what else the file system says.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        to_disk(partial)
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.errno in _FULL:
            raise OSError(
                error.errno, f"No space left for {path}; what was there is as it was."
            ) from error
        raise
    to_disk(path.parent)


def to_disk(path: pathlib.Path) -> None:
    """Waits until a file is on the disk; or the names in a folder, where that can be waited for."""
    try:
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        # Some systems open no folders, and some file systems wait for none.
        if not path.is_dir() or error.errno not in _NO_FOLDERS:
            raise


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file as `written_whole` does."""
    with written_whole(path) as partial:
        partial.write_bytes(content)


def write_json(path: str | os.PathLike, document: Any, *, indent: int | None = 1) -> None:
    """Writes a JSON file as `written_whole` does.

    Raises:
        ValueError: The document holds a number that is not finite.
    """
    write_whole(path, (json.dumps(document, indent=indent, allow_nan=False) + "\n").encode())


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
