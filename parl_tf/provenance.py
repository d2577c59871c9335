"""Fingerprints, package versions and the commit, which identify a run or a result."""

import functools
import hashlib
import os
import pathlib
import subprocess
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from parl_tf.runtime.onednn import ONEDNN, onednn_state

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
    """Versions of this package and of the packages that numerical results depend on.

    "oneDNN" is "on" or "off": whether TensorFlow uses its kernels in this process.
    """
    packages = ("parl_tf", "tensorflow", "keras", "numpy", "cleverhans")
    found = {package: metadata.version(package) for package in packages}
    return {**found, ONEDNN: onednn_state()}


def are_same_versions(recorded: object, current: Mapping[str, str]) -> bool:
    """Whether recorded versions are the current ones, as far as they were recorded.

    What an earlier version of this package wrote does not say whether oneDNN was used.
    """
    return isinstance(recorded, Mapping) and recorded.items() <= current.items()


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this package runs from, determined once per process.

    Returns:
        40 hexadecimal digits, followed by "-dirty" if tracked files have changed since; None for
        an installed package, or if git is missing or refuses the folder.
    """
    if not (_CHECKOUT / ".git").exists():
        return None
    # In a git hook, these variables name another repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        described = subprocess.run(
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
    return described.stdout.strip() if described.returncode == 0 else None
