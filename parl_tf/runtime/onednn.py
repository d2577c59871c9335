"""oneDNN's kernels in TensorFlow, on which speed and rounding depend."""

import os
import platform
from collections.abc import Mapping

from parl_tf.errors import InputError

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


def onednn_state() -> str:
    """What runs and records say of oneDNN's kernels in this process: "on" or "off"."""
    return "on" if uses_onednn() else "off"


def check_rounding(run: str | os.PathLike, versions: Mapping[str, str]) -> None:
    """Raises unless oneDNN's kernels, which round otherwise, are as a deterministic run had them.

    Args:
        run: The run folder.
        versions: The versions in its configuration. Those of an older run do not say which kernels
            it had; any are accepted for it.

    Raises:
        InputError: The kernels differ; the message says how to go on.
    """
    stored, current = versions.get(ONEDNN), onednn_state()
    if stored is not None and stored != current:
        raise InputError(
            f"Expected oneDNN's kernels {stored}, as {run} was started with them so and is to be "
            f"reproducible bit for bit. Received: {current}. To continue, "
            f"{how_to_use_onednn(stored)}."
        )


def how_to_use_onednn(wanted: str) -> str:
    """How to start a process in which oneDNN's kernels are "on" or "off"."""
    number = 1 if wanted == "on" else 0
    return f"set {_VARIABLE}={number} before TensorFlow is imported, in a new process"
