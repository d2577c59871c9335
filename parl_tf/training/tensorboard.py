"""Event files for TensorBoard, an optional extra."""

import importlib.util
import os
import pathlib

import keras

from parl_tf.errors import MissingExtraError


def tensorboard_callback(folder: str | os.PathLike) -> keras.callbacks.Callback:
    """A callback that writes the history as event files to the subfolder `tensorboard` of a run.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError(
            "Event files need TensorBoard. Install it with the extra tensorboard: "
            "pip install 'parl_tf[tensorboard]'."
        )
    return keras.callbacks.TensorBoard(str(pathlib.Path(folder) / "tensorboard"), write_graph=False)
