"""Adversarial examples on disk, to evaluate other models on later."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from parl_tf.attacks.base import TOLERANCE, Attack
from parl_tf.data.examples import Split
from parl_tf.errors import ExistingRunError, InputError, MissingFileError, UnreadableFileError
from parl_tf.files import sha256_of, write_json
from parl_tf.provenance import are_same_versions
from parl_tf.results.files import checksum, read_document
from parl_tf.results.keys import AttackKey
from parl_tf.results.records import FORMAT, ModelCard

_INDEX = "examples.json"
_BLOCK = 250  # images that are checked at a time


class SetKey(NamedTuple):
    """What identifies a set of examples; `crafted_on` is the fingerprint of the model's weights."""

    crafted_on: str
    attack: AttackKey
    epsilon: float
    restart: int


def key_of(attack: Attack) -> AttackKey:
    """The key of an attack."""
    return AttackKey.of(attack.name, dataclasses.asdict(attack))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleSet:
    """Adversarial examples of one attack at one strength, and what they were crafted on.

    Attributes:
        crafted_on: The model.
        attack: Name of the attack.
        hyperparameters: Those of the attack.
        epsilon: Radius of the ball, in pixel units of [0, 1].
        restart: Index of the run of the attack, from 0.
        file: Name of the file in the folder, a float32 array of the images' shape, as they left
            the attack.
        sha256: Hash of that file.
    """

    crafted_on: ModelCard
    attack: str
    hyperparameters: dict[str, Any]
    epsilon: float
    restart: int
    file: str
    sha256: str

    @property
    def key(self) -> SetKey:
        """What tells a set apart from the others of a folder."""
        attack = AttackKey.of(self.attack, self.hyperparameters)
        return SetKey(self.crafted_on.fingerprint, attack, self.epsilon, self.restart)


class ExampleWriter:
    """Writes adversarial examples into a folder, a batch at a time.

    Args:
        folder: The folder; examples of the same evaluation that it already holds are kept.
        examples: The clean images and labels.
        common: What the examples have in common: `seed`, `data` and so on, as in a record.

    Raises:
        ExistingRunError: The folder holds examples of another evaluation, or other files.
    """

    def __init__(
        self, folder: str | os.PathLike, examples: Split, common: Mapping[str, Any]
    ) -> None:
        self._folder = pathlib.Path(folder)
        self._examples = examples
        self._common = {key: common[key] for key in ("seed", "batch_size", "data", "versions")}
        self._sets: dict[SetKey, ExampleSet] = {}
        self._open: Any = None
        if (self._folder / _INDEX).exists():
            common_there, sets = read_examples(self._folder)
            if are_same_versions(common_there["versions"], self._common["versions"]):
                self._common["versions"] = common_there["versions"]  # an older folder has fewer
            if common_there != json.loads(json.dumps(self._common)):
                raise ExistingRunError(
                    f"{folder} holds examples of another evaluation. Expected a new folder."
                )
            self._sets = {found.key: found for found in sets}
            return
        if self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
            raise ExistingRunError(
                f"Expected a new or empty folder for examples. Received: {folder}."
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write_index()

    def has(self, crafted_on: ModelCard, attack: Attack, epsilon: float, restart: int) -> bool:
        """Whether the folder already holds a set."""
        return SetKey(crafted_on.fingerprint, key_of(attack), epsilon, restart) in self._sets

    def begin(
        self, crafted_on: ModelCard, attack: Attack, epsilon: float, restart: int
    ) -> Callable[[np.ndarray], None]:
        """Begins a set, and returns a function to call with its batches in order."""
        settings = dataclasses.asdict(attack)
        name = _name(crafted_on, attack, epsilon, restart)
        partial = self._folder / f"{name}.partial"
        shape = self._examples.images.shape
        array = np.lib.format.open_memmap(partial, mode="w+", dtype="float32", shape=shape)
        self._open = (partial, array, crafted_on, attack, settings, epsilon, restart)
        position = 0

        def keep(images: np.ndarray) -> None:
            nonlocal position
            array[position : position + len(images)] = images
            position += len(images)

        return keep

    def end(self) -> None:
        """Ends the current set, and adds it to the index."""
        partial, array, crafted_on, attack, settings, epsilon, restart = self._open
        array.flush()
        self._open = None
        file = f"{partial.name.removesuffix('.partial')}.npy"
        os.replace(partial, self._folder / file)
        made = ExampleSet(
            crafted_on=crafted_on,
            attack=attack.name,
            hyperparameters=settings,
            epsilon=float(epsilon),
            restart=restart,
            file=file,
            sha256=sha256_of(self._folder / file),
        )
        self._sets[made.key] = made
        self._write_index()

    def _write_index(self) -> None:
        """Writes the index of the folder atomically."""
        sets = [
            {**vars(found), "crafted_on": found.crafted_on.to_json()}
            for found in self._sets.values()
        ]
        document = {"format": FORMAT, **self._common, "sets": sets}
        write_json(self._folder / _INDEX, {**document, "checksum": checksum(document)})


def read_examples(folder: str | os.PathLike) -> tuple[dict[str, Any], list[ExampleSet]]:
    """Reads the index of a folder of adversarial examples, without the images.

    Returns:
        What they have in common (`seed`, `batch_size`, `data`, `versions`), and the sets.

    Raises:
        MissingFileError: No examples there.
        UnreadableFileError: An index that is damaged, edited by hand or of another format.
    """
    path = pathlib.Path(folder) / _INDEX
    if not path.is_file():
        raise MissingFileError(f"{folder} holds no adversarial examples: there is no {_INDEX}.")
    document = read_document(path)
    try:
        common = {key: document[key] for key in ("seed", "batch_size", "data", "versions")}
        sets = [
            ExampleSet(**{**found, "crafted_on": ModelCard.from_json(found["crafted_on"])})
            for found in document["sets"]
        ]
        for found in sets:
            _check(found)
        if len({found.key for found in sets}) < len(sets):
            raise ValueError("two sets for one attack, strength and restart")
        data, numbers = common["data"], (common["seed"], common["batch_size"])
        if not isinstance(data, dict) or not isinstance(data.get("fingerprint"), str):
            raise ValueError("data without a fingerprint")
        if not all(type(n) is int for n in (*numbers, data.get("num_examples"))) or numbers[1] < 1:
            raise ValueError("seed, batch size or number of examples")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableFileError(f"{path} is damaged: {error!r}") from error
    return common, sets


def load_images(folder: str | os.PathLike, found: ExampleSet, clean: np.ndarray) -> np.ndarray:
    """Opens the images of a set, and checks them against the index and the clean images.

    Args:
        folder: The folder.
        found: The set.
        clean: The clean images, (n, height, width, channels).

    Returns:
        float32 array of the shape of `clean`, memory-mapped.

    Raises:
        UnreadableFileError: A file that is missing, changed or damaged.
        InputError: Examples of other images, or outside their ball.
    """
    path = pathlib.Path(folder) / found.file
    if not path.is_file() or sha256_of(path) != found.sha256:
        raise UnreadableFileError(f"{path} is missing or was changed after it was written.")
    try:
        images = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        raise UnreadableFileError(f"{path} is not an array: {error}") from error
    if images.shape != clean.shape or images.dtype != np.float32:
        raise InputError(
            f"Expected float32 examples of shape {clean.shape}. Received: {images.dtype} of shape "
            f"{images.shape} in {path}."
        )
    for first in range(0, len(images), _BLOCK):
        part, center = images[first : first + _BLOCK], clean[first : first + _BLOCK]
        distance = np.abs(part.astype("float64") - center).max()
        if not (distance <= found.epsilon + TOLERANCE and 0 <= part.min() <= part.max() <= 1):
            raise InputError(
                f"Expected examples within {found.epsilon} of their images and in [0, 1]. "
                f"Received: others in {path}."
            )
    return images


def _name(crafted_on: ModelCard, attack: Attack, epsilon: float, restart: int) -> str:
    """Name of a set's file, without its suffix."""
    settings = [crafted_on.fingerprint, attack.name, dataclasses.asdict(attack), epsilon, restart]
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    return f"{attack.name}-{epsilon:g}-{restart}-{digest[:8]}"


def _check(found: ExampleSet) -> None:
    """Raises ValueError unless a set is complete and its file is in the folder itself."""
    if pathlib.PurePath(found.file).name != found.file or not found.file.endswith(".npy"):
        raise ValueError(f"file {found.file!r}")
    if not isinstance(found.hyperparameters, dict) or not 0 < found.epsilon <= 1:
        raise ValueError(f"hyperparameters or epsilon of {found.file!r}")
    texts = (found.attack, found.crafted_on.name, found.crafted_on.fingerprint)
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"names of {found.file!r}: {texts}")
    if not isinstance(found.restart, int) or found.restart < 0:
        raise ValueError(f"restart {found.restart!r}")


def grouped(sets: Sequence[ExampleSet]) -> list[list[ExampleSet]]:
    """Groups sets that differ only in the restart; each group is ordered by restart."""
    groups: dict[SetKey, list[ExampleSet]] = {}
    for found in sets:
        groups.setdefault(found.key._replace(restart=0), []).append(found)
    return [sorted(group, key=lambda found: found.restart) for group in groups.values()]
