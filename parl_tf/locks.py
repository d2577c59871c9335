"""One process at a time in a run folder."""

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
    """Keeps other processes out of a folder; the lock ends with the process, however it ends.

    Where the system or its file system has no locks, a warning says so.

    Args:
        folder: A folder; it is made if it is missing.

    Raises:
        ExistingRunError: Another process is in there.
    """
    folder = pathlib.Path(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if opened is None:
            _log.warning("%s cannot be locked on this system.", folder)
        else:
            _lock(opened, folder)
        yield
    finally:
        if opened is not None:
            os.close(opened)
        if is_new:
            with contextlib.suppress(OSError):  # what was written into stays
                folder.rmdir()


def _lock(opened: int, folder: pathlib.Path) -> None:
    """Locks an open folder."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ExistingRunError(
            f"Another process is at work in {folder}. Expected a folder of one's own; nothing "
            "was changed."
        ) from error
    except OSError as error:
        _log.warning("%s cannot be locked on its file system: %s.", folder, error)
