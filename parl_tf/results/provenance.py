"""Which weights, examples and versions a result is of."""

import hashlib
from importlib import metadata
from typing import Any

import keras
import numpy as np


def fingerprint(*arrays: Any) -> str:
    """Hash of arrays: 16 hexadecimal digits from their shapes and values, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(repr(array.shape).encode())
        digest.update(array.data)
    return digest.hexdigest()[:16]


def weights_fingerprint(model: keras.Model) -> str:
    """Hash of a model's weights, without its optimizer: 16 hexadecimal digits."""
    return fingerprint(*model.get_weights())


def versions() -> dict[str, str]:
    """Versions of this package and of those whose numerics a result depends on."""
    packages = ("parl_tf", "tensorflow", "keras", "numpy", "cleverhans")
    return {package: metadata.version(package) for package in packages}
