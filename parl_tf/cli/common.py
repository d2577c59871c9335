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
from collections.abc import Callable, Iterator
from typing import Any

from parl_tf.errors import (
    DivergedError,
    ExistingRunError,
    InputError,
    MissingExtraError,
    MissingFileError,
    UnreadableFileError,
)

USAGE, MISSING = 2, 3  # exit statuses beside 0 (done) and 1 (anything else)


def positive_int(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, received {text}")
    return value


def seed(text: str) -> int:
    """An integer from 0 to 2**31 - 1, for argparse."""
    value = int(text)
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to {2**31 - 1}")
    return value


def finite(text: str) -> float:
    """A finite number, for argparse."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, received {text}")
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
    try:
        with (
            _ending_in_order(),
            contextlib.redirect_stdout(sys.stderr if print_json else sys.stdout),
        ):
            if tensorflow:
                start_tensorflow(deterministic)
            _show_log()
            document = body()
    except (InputError, ExistingRunError) as error:
        return _fail(error, USAGE)
    except (MissingFileError, UnreadableFileError) as error:
        return _fail(error, MISSING)
    except (OSError, DivergedError, MissingExtraError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except _Terminated:
        return _fail("told to end (SIGTERM)", 143)
    if print_json:
        print(json.dumps(document, allow_nan=False))
    return 0


class _Terminated(BaseException):
    """The process was told to end, by SIGTERM."""


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that what was begun is put away as after Control-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number, frame):
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
        from parl_tf.determinism import enable_determinism

        enable_determinism()
    kinds = sorted({device.device_type for device in devices})
    print(f"TensorFlow {tensorflow.__version__} on {' and '.join(kinds)}", file=sys.stderr)
