"""What the command line tools share. Imports no TensorFlow, so that --help is quick."""

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
from typing import Any

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

USAGE, MISSING = 2, 3  # exit statuses beside 0 (done) and 1 (anything else)


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
    """An integer from `least` to below `below`; the error says what is expected."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least or (below is not None and value >= below):
        raise argparse.ArgumentTypeError(f"expected {expected}, received {text!r}")
    return value


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what every tool that reads a data set takes."""
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
    """Runs a tool's body, and turns the user's mistakes into messages and exit statuses.

    Args:
        body: Does the work, prints for people and returns a JSON document.
        print_json: Whether to print that document to standard output, and whatever `body` prints
            to standard error instead.
        tensorflow: Whether the body needs TensorFlow, which takes seconds to import.
        deterministic: Whether TensorFlow's operations are to give the same bits every time.

    Returns:
        The exit status.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:  # the first file that is opened would be in its place
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
    """Runs a tool's body; the exit status, were it not for standard output."""
    try:
        with _ending_in_order(), contextlib.redirect_stdout(sys.stderr if print_json else output):
            check_backend()
            if tensorflow:
                start_tensorflow(deterministic)
            _show_log()
            document = body()
        if print_json:
            print(json.dumps(document, allow_nan=False), file=output)
    except (BackendError, InputError, ExistingRunError) as error:
        return _fail(error, USAGE)
    except (MissingFileError, UnreadableFileError) as error:
        return _fail(error, MISSING)
    except (OSError, DivergedError, MissingExtraError) as error:
        return 1 if output.failure else _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except _Terminated:
        return _fail("told to end (SIGTERM)", 143)
    return 0


class _Terminated(BaseException):
    """The process was told to end, by SIGTERM."""


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that what was begun is put away as after Control-C."""
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
    """Writes to what standard error is at the moment, not to what it was in the beginning."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None:
        """There is nothing to set."""


def _show_log() -> None:
    """Sends what the library logs to standard error."""
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
    """Imports TensorFlow, and keeps what its native code then writes to standard error to itself.

    It announces its build and the absence of a GPU in several lines, before any setting of its
    own takes effect. If the import fails, they are printed after all.
    """
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
