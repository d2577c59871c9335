"""Which backend Keras uses, determined without importing Keras.

With another backend, importing Keras may fail, or this package may fail much later, after a run
folder has been created.
"""

import json
import os
import pathlib
import sys

from parl_tf.errors import BackendError

_NEEDED = "tensorflow"


def check_backend() -> None:
    """Raises unless Keras uses TensorFlow, or will once it is imported.

    Raises:
        BackendError: Keras uses another backend. The message is one sentence that says what chose
            it and how to change it.
    """
    backend, chosen_by, remedy = _chosen()
    if backend != _NEEDED:
        raise BackendError(
            f"parl_tf needs Keras with the backend {_NEEDED!r}, but {chosen_by} {backend!r}: "
            f"{remedy}."
        )


def _chosen() -> tuple[object, str, str]:
    """The backend, what chose it and how to change it, in Keras's order of precedence."""
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
        backend = _NEEDED  # Keras's default if the file is missing or names no backend
    return backend, f"{file} says", "change it there, or set KERAS_BACKEND=tensorflow"


def _configuration_file() -> pathlib.Path:
    """Keras's configuration file."""
    if "KERAS_HOME" in os.environ:
        return pathlib.Path(os.environ["KERAS_HOME"], "keras.json").expanduser()
    home = os.path.expanduser("~")
    return pathlib.Path(home if os.access(home, os.W_OK) else "/tmp", ".keras", "keras.json")
