"""Atomic, fsynced writes, and checksums of files."""

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
def atomic_replacement(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A new file that replaces `path` once it is complete and on disk.

    If writing fails, or the process or the machine stops, the old file is untouched. Only one
    process at a time may write to a path.

    Args:
        path: The file to create or replace.

    Yields:
        The temporary file to write to: in the same folder, with the same suffix.

    Raises:
        OSError: The disk is full, or another file system error occurred.
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
                error.errno, f"No space left for {path}; the old file, if any, is untouched."
            ) from error
        raise
    to_disk(path.parent)


def to_disk(path: pathlib.Path) -> None:
    """Waits until a file, or the entries of a folder, are on disk.

    Folders are skipped where the system cannot sync them.
    """
    try:
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        # Some systems cannot open folders, and some file systems cannot sync them.
        if not path.is_dir() or error.errno not in _NO_FOLDERS:
            raise


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file through `atomic_replacement`."""
    with atomic_replacement(path) as partial:
        partial.write_bytes(content)


def write_json(path: str | os.PathLike, document: Any, *, indent: int | None = 1) -> None:
    """Writes a JSON file through `atomic_replacement`.

    Raises:
        ValueError: The document contains NaN or an infinite number.
    """
    write_atomic(path, (json.dumps(document, indent=indent, allow_nan=False) + "\n").encode())


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
