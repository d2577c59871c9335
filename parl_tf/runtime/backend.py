"""Which backend Keras runs on, found out before Keras is imported. Imports neither it nor others.

Under another backend Keras's own import may fail, or this package's much later: a run's folder
would be there by then.
"""

import json
import os
import pathlib
import sys

from parl_tf.errors import BackendError

_NEEDED = "tensorflow"


def check_backend() -> None:
    """Raises unless Keras runs on TensorFlow, or is going to once it is imported.

    Raises:
        BackendError: It is another backend; the message is one sentence that says who chose it
            and what to do.
    """
    backend, chosen_by, remedy = _chosen()
    if backend != _NEEDED:
        raise BackendError(
            f"parl_tf needs Keras with the backend {_NEEDED!r}, and {chosen_by} {backend!r}: "
            f"{remedy}."
        )


def _chosen() -> tuple[object, str, str]:
    """The backend, who chose it, and how to choose another; in the order that Keras goes by."""
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config"):
        remedy = "set KERAS_BACKEND=tensorflow before Keras is imported, in a new process"
        return keras.config.backend(), "it was imported here with", remedy
    if backend := os.environ.get("KERAS_BACKEND"):
        remedy = "set it to tensorflow before Keras is imported"
        return backend, "the environment variable KERAS_BACKEND is", remedy
    file = _configuration_file()
    try:
        backend = json.loads(file.read_text()).get("backend", _NEEDED)
    except (OSError, ValueError, AttributeError):
        backend = _NEEDED  # Keras's default where its file is not there or says nothing
    return backend, f"{file} says", "change it there, or set KERAS_BACKEND=tensorflow"


def _configuration_file() -> pathlib.Path:
    """Where Keras reads what it is configured to."""
    if "KERAS_HOME" in os.environ:
        return pathlib.Path(os.environ["KERAS_HOME"], "keras.json").expanduser()
    home = os.path.expanduser("~")
    return pathlib.Path(home if os.access(home, os.W_OK) else "/tmp", ".keras", "keras.json")
