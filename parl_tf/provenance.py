"""Which weights, examples, versions and commit a run or a result is of."""

import functools
import hashlib
import os
import pathlib
import subprocess
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # reading results must not wait for TensorFlow
    import keras

_CHECKOUT = pathlib.Path(__file__).parents[1]
_GIT_SECONDS = 5


def fingerprint(*arrays: Any) -> str:
    """Hash of arrays: 16 hexadecimal digits from their shapes and values, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(repr(array.shape).encode())
        digest.update(array.data)
    return digest.hexdigest()[:16]


def weights_fingerprint(model: "keras.Model") -> str:
    """Hash of a model's weights, without its optimizer: 16 hexadecimal digits."""
    return fingerprint(*model.get_weights())


def versions() -> dict[str, str]:
    """Versions of this package and of those whose numerics a result depends on."""
    packages = ("parl_tf", "tensorflow", "keras", "numpy", "cleverhans")
    return {package: metadata.version(package) for package in packages}


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this package is run from; asked for once a process.

    Returns:
        40 hexadecimal digits, with "-dirty" behind them if tracked files were changed since;
        None for an installed package, and where git is missing or refuses the folder.
    """
    if not (_CHECKOUT / ".git").exists():
        return None
    # A hook's variables would name another repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            cwd=_CHECKOUT,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() if told.returncode == 0 else None
