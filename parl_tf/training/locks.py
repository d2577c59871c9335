"""Locks that admit one process at a time to a run folder."""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator

from parl_tf.errors import ExistingRunError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Locks a folder against the other processes of this machine.

    The lock is released when the process ends, however it ends. If the system or the file system
    does not support locks, a warning is logged instead. Network file systems may lock within each
    machine only.

    Args:
        folder: A folder; it is created if missing.

    Raises:
        ExistingRunError: Another process holds the lock.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        _log.warning("%s cannot be locked on this system.", folder)
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ExistingRunError(
                f"Another process is using {folder}. Expected a folder that no other process "
                "uses; nothing was changed."
            ) from error
        except OSError as error:
            _log.warning("%s cannot be locked on its file system: %s.", folder, error)
        yield
    finally:
        os.close(opened)
