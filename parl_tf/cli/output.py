"""Standard output of the command line tools, and errors when it cannot be written."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

CLOSED = "standard output is closed. Expected a file, a terminal, a pipe or /dev/null."


class StandardOutput:
    """A stream that records a failure to write.

    After a failure, output is discarded. Otherwise Python would try again when the process exits,
    and print an error of its own.

    Args:
        stream: The stream to write to.

    Attributes:
        failure: Message about the failure; None if there was none.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: str | None = None

    def write(self, text: str) -> int:
        """Writes text; raises OSError if that fails."""
        with self._watched():
            return self._stream.write(text)

    def flush(self) -> None:
        """Flushes the buffer; raises OSError if that fails."""
        with self._watched():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Records a failure to write."""
        try:
            yield
        except OSError as error:
            self.failure = f"standard output cannot be written: {error.strerror}."
            self._discard()
            raise

    def _discard(self) -> None:
        """Discards what is buffered, and all further output."""
        with contextlib.suppress(OSError, ValueError):  # the stream is not a file
            descriptor = self._stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


class Parser(argparse.ArgumentParser):
    """An argument parser that exits with an error if the help cannot be written."""

    def print_help(self, file: Any = None) -> None:
        """Prints the help; argparse would ignore a failure to do so."""
        if file is None and sys.stdout is None:
            self.exit(1, f"error: {CLOSED}\n")
        output = StandardOutput(file or sys.stdout)
        try:
            output.write(self.format_help())
            output.flush()
        except OSError:
            self.exit(1, f"error: {output.failure}\n")
