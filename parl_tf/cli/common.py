"""Shared by the command line tools. Imports no TensorFlow, to keep --help fast."""

import argparse
import contextlib
import json
import logging
import math
import os
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from parl_tf.cli.output import CLOSED, StandardOutput
from parl_tf.errors import (
    BackendError,
    DivergedError,
    ExistingRunError,
    InputError,
    MissingExtraError,
    MissingFileError,
    UnreadableFileError,
)
from parl_tf.runtime.backend import check_backend
from parl_tf.runtime.onednn import prefer_onednn

USAGE, MISSING = 2, 3  # exit statuses besides 0 (success) and 1 (any other error)


def positive_int(text: str) -> int:
    """An integer of at least 1, for argparse."""
    return _integer(text, 1, None, "an integer of at least 1")


def seed(text: str) -> int:
    """An integer from 0 to 2**31 - 1, for argparse."""
    return _integer(text, 0, 2**31, f"an integer from 0 to {2**31 - 1}")


def finite(text: str) -> float:
    """A finite number or a fraction of two, such as 8/255, for argparse."""
    try:
        numbers = [float(part) for part in text.split("/", 1)]
        value = numbers[0] / numbers[1] if len(numbers) == 2 else numbers[0]
    except (ValueError, ArithmeticError):
        numbers, value = [], math.nan
    if not all(map(math.isfinite, [*numbers, value])):
        raise argparse.ArgumentTypeError(
            f"expected a finite number or a fraction such as 8/255, received {text!r}"
        )
    return value


def _integer(text: str, least: int, below: int | None, expected: str) -> int:
    """An integer of at least `least` and less than `below`."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least or (below is not None and value >= below):
        raise argparse.ArgumentTypeError(f"expected {expected}, received {text!r}")
    return value


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of every tool that reads a data set."""
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder of tensorflow-datasets that holds the prepared data set",
    )
    parser.add_argument("--seed", type=seed, default=0, help="default: 0")
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="repeat results bit for bit on one machine; somewhat slower",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document to standard output, everything else to standard error",
    )


def run(
    body: Callable[[], Any],
    *,
    print_json: bool,
    tensorflow: bool = True,
    deterministic: bool = False,
) -> int:
    """Runs a tool's body and turns user errors into messages and exit statuses.

    Args:
        body: Does the work, prints for people and returns a JSON document.
        print_json: Whether to print that document to standard output, and to redirect what `body`
            prints to standard error.
        tensorflow: Whether the body needs TensorFlow, which takes seconds to import.
        deterministic: Whether to enable determinism, as `parl_tf.enable_determinism` does.

    Returns:
        The exit status.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:  # the next file opened would take its descriptor
        return _fail(CLOSED, 1)
    output = StandardOutput(sys.stdout)
    status = _status_of(body, output, print_json, tensorflow, deterministic)
    with contextlib.suppress(OSError):
        output.flush()
    if output.failure:
        _fail(output.failure, 1)
    return status or int(output.failure is not None)


def _status_of(
    body: Callable[[], Any],
    output: StandardOutput,
    print_json: bool,
    tensorflow: bool,
    deterministic: bool,
) -> int:
    """Runs a tool's body and returns the exit status, regardless of standard output."""
    shown = cast(TextIO, sys.stderr if print_json else output)
    try:
        with _ending_in_order(), contextlib.redirect_stdout(shown):
            check_backend()
            if tensorflow:
                start_tensorflow(deterministic)
            _show_log()
            document = body()
        if print_json:
            output.write(json.dumps(document, allow_nan=False) + "\n")
    except (BackendError, InputError, ExistingRunError) as error:
        return _fail(error, USAGE)
    except (MissingFileError, UnreadableFileError) as error:
        return _fail(error, MISSING)
    except (OSError, DivergedError, MissingExtraError) as error:
        return 1 if output.failure else _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except _Terminated:
        return _fail("terminated (SIGTERM)", 143)
    return 0


class _Terminated(BaseException):
    """The process received SIGTERM."""


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that cleanup runs as after Control-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: types.FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


class _StandardError(logging.StreamHandler):
    """Writes to the current standard error, not to the original one."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None:
        """Does nothing."""


def _show_log() -> None:
    """Sends the package's log to standard error."""
    log = logging.getLogger("parl_tf")
    if not log.handlers:
        log.addHandler(_StandardError())
        log.setLevel(logging.INFO)
        log.propagate = False


def _fail(error: object, status: int) -> int:
    """Prints an error and returns the exit status."""
    print(f"error: {error}", file=sys.stderr)
    return status


def start_tensorflow(deterministic: bool = False) -> None:
    """Imports TensorFlow, and hides what its native code writes to standard error meanwhile.

    It describes its build and the absence of a GPU in several lines before any of its settings
    takes effect. If the import fails, these lines are printed after all. oneDNN's kernels are used
    unless the user has decided otherwise.
    """
    prefer_onednn()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            import tensorflow

            devices = tensorflow.config.list_physical_devices()
        except BaseException:
            kept.seek(0)
            os.write(standard_error, kept.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
    if deterministic:
        from parl_tf.runtime.determinism import enable_determinism

        enable_determinism()
    kinds = sorted({device.device_type for device in devices})
    print(f"TensorFlow {tensorflow.__version__} on {' and '.join(kinds)}", file=sys.stderr)
