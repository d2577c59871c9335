"""oneDNN's kernels in TensorFlow, on which speed and rounding depend."""

import os
import platform

ONEDNN = "oneDNN"
"""Its key among the versions of a run or a record; the values are "on" and "off"."""
_VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


def prefer_onednn() -> None:
    """Makes TensorFlow use oneDNN's kernels, unless the user has decided.

    By itself TensorFlow leaves them off on x86 processors without AVX-512 VNNI, AMX and the like,
    where they are up to twice as fast. Call this before TensorFlow is imported. Elsewhere than on
    x86 it does nothing.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        os.environ.setdefault(_VARIABLE, "1")


def uses_onednn() -> bool:
    """Whether TensorFlow uses oneDNN's kernels in this process."""
    # TensorFlow has no public way to ask.
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())


def how_to_use_onednn(wanted: str) -> str:
    """How to start a process in which oneDNN's kernels are "on" or "off"."""
    number = 1 if wanted == "on" else 0
    return f"set {_VARIABLE}={number} before TensorFlow is imported, in a new process"
