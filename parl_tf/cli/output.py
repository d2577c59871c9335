"""Standard output of the command line tools, and what they say if it cannot be written."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

CLOSED = "standard output is closed. Expected a file, a terminal, a pipe or /dev/null."


class StandardOutput:
    """A stream that remembers that it could not be written.

    Then it leads nowhere. Else Python would try again when the process ends, and complain after
    the tool has said so, or where it is too late to.

    Args:
        stream: What to write to; everything but writing is its own.

    Attributes:
        failure: Why it could not be written, as a message; None if it could.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: str | None = None

    def write(self, text: str) -> int:
        """Writes text; raises OSError if that fails."""
        with self._watched():
            return self._stream.write(text)

    def flush(self) -> None:
        """Writes out what is held back; raises OSError if that fails."""
        with self._watched():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Remembers an error of writing."""
        try:
            yield
        except OSError as error:
            self.failure = f"standard output cannot be written: {error.strerror}."
            self._lead_nowhere()
            raise

    def _lead_nowhere(self) -> None:
        """Lets what is held back, and all that follows, disappear."""
        with contextlib.suppress(OSError, ValueError):  # of a stream that is no file
            descriptor = self._stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


class Parser(argparse.ArgumentParser):
    """An argument parser that exits with an error message if the help cannot be written."""

    def print_help(self, file: Any = None) -> None:
        """Prints the help, where argparse would keep to itself that this fails."""
        if file is None and sys.stdout is None:
            self.exit(1, f"error: {CLOSED}\n")
        output = StandardOutput(file or sys.stdout)
        try:
            output.write(self.format_help())
            output.flush()
        except OSError:
            self.exit(1, f"error: {output.failure}\n")
