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
    """Keeps the other processes of this machine out of a folder.

    The lock ends with the process, however it ends. Where the system or its file system has no
    locks, a warning says so. Network file systems may lock for each machine only.

    Args:
        folder: A folder; it is made if it is missing.

    Raises:
        ExistingRunError: Another process is in there.
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
                f"Another process is at work in {folder}. Expected a folder of one's own; "
                "nothing was changed."
            ) from error
        except OSError as error:
            _log.warning("%s cannot be locked on its file system: %s.", folder, error)
        yield
    finally:
        os.close(opened)
