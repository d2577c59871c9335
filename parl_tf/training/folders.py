"""Run folders: `config.json`, `history.csv`, and checkpoints until `model.keras` replaces them."""

import csv
import io
import json
import math
import os
import pathlib
import re
import zipfile
from collections.abc import Sequence

import h5py
import keras

from parl_tf.defences import METHODS
from parl_tf.defences.base import Ensemble
from parl_tf.errors import ExistingRunError, InputError, MissingFileError, UnreadableFileError
from parl_tf.files import atomic_replacement, sha256_of, to_disk, write_atomic, write_json
from parl_tf.graphs.classifiers import check_logits_classifier
from parl_tf.training.config import RunConfig

CONFIG, HISTORY, MODEL = "config.json", "history.csv", "model.keras"
_MOST_UNPACKED = 20  # times the file's size; other tools may compress what Keras does not
_KEPT = 2  # checkpoints: the last, and the one before it in case the last is damaged


def begin_run(folder: str | os.PathLike, config: RunConfig) -> pathlib.Path:
    """Creates a run folder and writes its configuration.

    Args:
        folder: The run folder. The history and checkpoints of an unfinished run are removed.
        config: Configuration of the run.

    Returns:
        The folder.

    Raises:
        ExistingRunError: The folder holds a finished run, or something that is not a run.
    """
    folder = pathlib.Path(folder)
    check_can_begin(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_checkpoints(folder)
    for path in (folder / HISTORY, *folder.glob(".partial-*")):
        path.unlink(missing_ok=True)
    write_json(folder / CONFIG, config.to_json())
    return folder


def check_can_begin(folder: str | os.PathLike) -> None:
    """Raises unless a run can begin in `folder`; the errors are those of `begin_run`."""
    folder = pathlib.Path(folder)
    if is_finished(folder):
        raise ExistingRunError(
            f"{folder} already holds a finished run. Expected a new folder; nothing was changed."
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        names = ["a file"]
    else:  # partial files of a killed process do not count
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".partial-")]
    if not names:
        return
    why = ""
    try:
        read_config(folder)
        return
    except MissingFileError:
        pass
    except UnreadableFileError as error:
        why = f" {error}"
    raise ExistingRunError(
        f"{folder} holds something that is not a run.{why} Expected a new or empty folder; "
        "nothing was changed."
    )


def is_finished(folder: str | os.PathLike) -> bool:
    """Whether a folder holds a finished run."""
    return (pathlib.Path(folder) / MODEL).exists()


def finish_run(folder: pathlib.Path, model: keras.Model) -> None:
    """Saves the trained model into a run folder, which marks the run as finished."""
    with atomic_replacement(folder / MODEL) as partial:
        model.save(partial)
    remove_checkpoints(folder)


def save_checkpoint(folder: pathlib.Path, model: keras.Model, epochs: int) -> None:
    """Saves a model that has been trained for `epochs` epochs, with its checksum beside it.

    The previous checkpoint is kept; all others are removed.
    """
    path = folder / f"checkpoint-{epochs:04}.keras"
    if (folder / HISTORY).exists():  # a checkpoint without its lines is not continued
        to_disk(folder / HISTORY)
    with atomic_replacement(path) as partial:
        model.save(partial)
        write_atomic(_checksum_file(path), f"{sha256_of(partial)}  {path.name}\n".encode())
    found = find_checkpoints(folder)
    kept = sorted(number for number in found if number <= epochs)[-_KEPT:]
    remove_checkpoints(folder, [found[number] for number in kept])


def check_checkpoint(path: pathlib.Path) -> None:
    """Raises UnreadableFileError if a checkpoint has changed since it was written."""
    file = _checksum_file(path)
    if not file.exists():
        raise UnreadableFileError(f"{path} has no checksum beside it.")
    if file.read_bytes().split()[:1] != [sha256_of(path).encode()]:
        raise UnreadableFileError(f"{path} has changed since it was written: its checksum differs.")


def find_checkpoints(folder: str | os.PathLike) -> dict[int, pathlib.Path]:
    """The checkpoints in a run folder, by the number of epochs trained."""
    found = {}
    for path in pathlib.Path(folder).glob("checkpoint-*.keras"):
        if match := re.fullmatch(r"checkpoint-(\d{4,})\.keras", path.name):
            found[int(match[1])] = path
    return found


def _checksum_file(path: pathlib.Path) -> pathlib.Path:
    """The file with a checkpoint's checksum, as `sha256sum --check` reads it."""
    return path.with_name(f"{path.name}.sha256")


def remove_checkpoints(folder: pathlib.Path, kept: Sequence[pathlib.Path] = ()) -> None:
    """Removes the checkpoints and checksums in a run folder, except those in `kept`."""
    for path in folder.glob("checkpoint-*.keras*"):
        known = re.fullmatch(r"(checkpoint-\d{4,}\.keras)(\.sha256)?", path.name)
        if known and folder / known[1] not in kept:
            path.unlink()


def load_model(path: str | os.PathLike) -> tuple[keras.Model, RunConfig | None]:
    """Loads the model of a finished run, or a bare Keras file.

    Args:
        path: A run folder, or a `.keras` file with an ensemble or a classifier of images.

    Returns:
        The model, not compiled, and the run's configuration (None for a bare file).

    Raises:
        MissingFileError: Nothing is there, or the run is not finished.
        UnreadableFileError: The file is not a Keras model, or the configuration cannot be used.
        InputError: The model is not a classifier of images that returns logits.

    Example:
        >>> ensemble.save("ensemble.keras")
        >>> model, config = parl_tf.load_model("ensemble.keras")
        >>> len(model.members), config
        (2, None)
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise MissingFileError(f"No run folder or Keras file at {path}.")
    config, file = None, path
    if path.is_dir():
        config, file = read_config(path), path / MODEL
        if not file.exists():
            raise MissingFileError(f"{path} holds no finished run: there is no {MODEL} in it.")
    model = read_model(file)
    if not isinstance(model, Ensemble):
        check_logits_classifier(model)
    return model, config


def read_model(file: pathlib.Path, *, compiled: bool = False) -> keras.Model:
    """Reads a Keras file; with `compiled`, the model is compiled as it was saved.

    Raises:
        UnreadableFileError: The file does not hold a Keras model.
    """
    if not zipfile.is_zipfile(file):
        raise UnreadableFileError(f"{file} is not a Keras model. Expected a .keras file.")
    _check_unpacked_size(file)
    dict(METHODS)  # imports every method's class, so that Keras finds it
    try:
        return keras.models.load_model(file, compile=compiled, safe_mode=True)
    except Exception as error:  # Keras raises whatever the broken part happens to cause
        raise UnreadableFileError(f"{file} cannot be read as a Keras model: {error}") from error


def _check_unpacked_size(file: pathlib.Path) -> None:
    """Raises if a file claims to be much larger once it is unpacked.

    Keras compresses neither the archive nor the weights in it.
    """
    size = file.stat().st_size

    def check(unpacked: int) -> None:
        if unpacked > _MOST_UNPACKED * size:
            raise UnreadableFileError(
                f"Expected a Keras model, which is not compressed. Received: {file}, of {size:,} "
                f"bytes that unpack to {unpacked:,}."
            )

    try:
        with zipfile.ZipFile(file) as packed:
            check(sum(entry.file_size for entry in packed.infolist()))
            for name in packed.namelist():
                if name.endswith(".h5"):
                    check(_declared_size(packed.read(name)))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, KeyError) as error:
        raise UnreadableFileError(f"{file} cannot be read as a Keras model: {error}") from error


def _declared_size(weights: bytes) -> int:
    """Bytes of all arrays that an HDF5 file declares, whether or not they are there."""
    sizes = []
    with h5py.File(io.BytesIO(weights), "r") as file:
        file.visititems(lambda name, found: sizes.append(getattr(found, "nbytes", 0)))
    return sum(map(int, sizes))


def read_config(folder: str | os.PathLike) -> RunConfig:
    """Reads the configuration of a run, written by this version or an older one.

    Raises:
        MissingFileError: `folder` is not a run folder.
        UnreadableFileError: Its configuration is not JSON, was written by a newer version, or has
            a missing, unknown or invalid field.
    """
    path = pathlib.Path(folder) / CONFIG
    if not path.exists():
        raise MissingFileError(f"{folder} is not a run folder: there is no {CONFIG} in it.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError(f"{path} is not JSON: {error}.") from error
    try:
        return RunConfig.from_json(value)
    except InputError as error:
        raise UnreadableFileError(
            f"{path} does not hold a run configuration that this version can read. {error}"
        ) from error


def read_history(folder: str | os.PathLike) -> list[dict[str, float | None]]:
    """Reads the history of a run, one entry per epoch.

    Values that were not measured, or are not finite, are None.
    """
    with open(pathlib.Path(folder) / HISTORY, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: _number(value) for key, value in row.items()} for row in rows]


def cut_history(folder: pathlib.Path, epochs: int) -> None:
    """Drops the lines of a run's history beyond the first `epochs` epochs.

    Raises:
        UnreadableFileError: It does not hold that many epochs, one per line.
    """
    path = folder / HISTORY
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = lines[: epochs + 1]
    expected = [b"epoch", *(b"%d" % epoch for epoch in range(epochs))]
    if [line.split(b",")[0] for line in kept] != expected or not kept[-1].endswith(b"\n"):
        raise UnreadableFileError(f"{path} does not hold {epochs} epochs, one per line.")
    write_atomic(path, b"".join(kept))


def _number(text: str) -> float | None:
    """A number in a history; None if it was not measured or is not finite."""
    value = float("nan" if text == "NA" else text)
    return value if math.isfinite(value) else None
