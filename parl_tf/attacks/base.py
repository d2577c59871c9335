"""What all attacks share: validation, batches, random starts, projection and a final check."""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from parl_tf.arguments import check_at_least, check_seed
from parl_tf.attacks.members import Logits, MemberLogits, count_classes, member_logits, members_of
from parl_tf.data.examples import Split, check_examples
from parl_tf.errors import InputError
from parl_tf.tensors import project

TOLERANCE = 2.0**-22
"""How far float32 rounding can carry a projected image out of its ball, in pixel units."""


class Batch(NamedTuple):
    """The inputs of an attack, as tensors.

    Attributes:
        images: float32 (batch, height, width, channels), pixels in [0, 1].
        labels: int64 (batch,), the true classes.
        start: The starting point, of the shape of `images`: drawn uniformly from the ball and
            clipped to [0, 1] for an attack with a random start, else `images`.
        epsilon: float32 scalar, radius of the ball, in pixel units.
        keys: int32 (batch, 2), seeds for all other random draws for each image.
    """

    images: tf.Tensor
    labels: tf.Tensor
    start: tf.Tensor
    epsilon: tf.Tensor
    keys: tf.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(abc.ABC):
    """An untargeted L-infinity attack on images with pixels in [0, 1], given their true labels.

    An attack knows no threat model: it is given the model to craft on. Subclasses are frozen
    dataclasses of their hyperparameters, implement `perturb`, and need not project or clip. Their
    properties are registered in `parl_tf.ATTACKS`.

    Attributes:
        name: Its name on the command line and in records.
        random_start: Whether it begins at a random point of the ball instead of at the image.
        in_graph: Whether `perturb` is traced into a graph; else it runs eagerly.
        restarts: How many times the attack is run, each with its own random draws; 1 for an attack
            without randomness.

    Example:
        >>> import dataclasses
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class Brighten(parl_tf.Attack):
        ...     name = "brighten"
        ...
        ...     def perturb(self, model, batch):
        ...         return batch.images + batch.epsilon
        >>> brighter = Brighten()(ensemble, sample.images, sample.labels, epsilon=0.1)
        >>> bool((brighter >= sample.images).all() and (brighter <= 1).all())
        True
    """

    name: ClassVar[str]
    random_start: ClassVar[bool] = False
    in_graph: ClassVar[bool] = True
    restarts: int = dataclasses.field(default=1, init=False)

    def __post_init__(self) -> None:
        check_at_least("restarts", self.restarts, 1)

    @abc.abstractmethod
    def perturb(self, model: MemberLogits, batch: Batch) -> tf.Tensor:
        """Crafts adversarial examples for one batch.

        Args:
            model: From images to the members' log-probabilities, (members, batch, classes); one
                member for a single classifier.
            batch: The images, labels, starting points and seeds.

        Returns:
            Tensor of the shape of the images.
        """

    def view(self, member: keras.Model | Logits) -> Logits:
        """The member as the attack uses it: itself, or a copy with modified gradients.

        Raises:
            InputError: A member that the attack cannot be run on.
        """
        return member

    def check_epsilon(self, epsilon: float) -> None:
        """Raises unless the attack can run in a ball of radius `epsilon`, in pixel units.

        Raises:
            InputError: `epsilon` is not in (0, 1], or the hyperparameters do not fit it.
        """
        value = strength(epsilon)
        if not 0 < value <= 1:
            hint = " Divide strengths in levels of 0 to 255 by 255." if 1 < value <= 255 else ""
            raise InputError(
                f"Expected epsilon in (0, 1], in pixel units. Received: {epsilon}.{hint}"
            )

    def prepare(self, model: keras.Model | Logits) -> "Crafter":
        """Prepares the attack on a model, to be called for many strengths and restarts.

        Args:
            model: What to craft examples on: an `Ensemble`, a functional Keras classifier, or a
                function from images to logits. A plain function must work inside `tf.function`.

        Returns:
            The attack on that model.

        Raises:
            InputError: A Keras model that returns probabilities, or does not classify images.
        """
        return Crafter(self, model)

    def __call__(
        self,
        model: keras.Model | Logits,
        images: Any,
        labels: Any,
        *,
        epsilon: float,
        **options: int,
    ) -> np.ndarray:
        """Crafts adversarial examples once: `prepare`, then `Crafter.__call__`."""
        return self.prepare(model)(images, labels, epsilon=epsilon, **options)


class Crafter:
    """An attack on one model. Made by `Attack.prepare`."""

    def __init__(self, attack: Attack, model: keras.Model | Logits) -> None:
        self._attack = attack
        self._members = members_of(model)
        self._model = member_logits([attack.view(member) for member in self._members])
        self._num_classes = 0
        self._craft_batch: Callable[..., tf.Tensor] | None = None

    def __call__(
        self,
        images: Any,
        labels: Any,
        *,
        epsilon: float,
        seed: int = 0,
        restart: int = 0,
        first_index: int = 0,
        batch_size: int = 250,
    ) -> np.ndarray:
        """Crafts adversarial examples for any number of images.

        Args:
            images: Array (n, height, width, channels), pixels in [0, 1].
            labels: Integer array (n,), the true classes.
            epsilon: Radius of the L-infinity ball, in pixel units of [0, 1].
            seed: An image's random draws are determined by (seed, restart, index) alone, whatever
                batch it is in.
            restart: Index of the run, from 0 to `restarts - 1`.
            first_index: Index of the first image, if the images are part of a larger set.
            batch_size: Images at a time; memory is bounded by it.

        Returns:
            float32 array of the shape of `images`, in [0, 1] and within `epsilon` of them up to
            float32 rounding.

        Raises:
            InputError: An argument outside these ranges, or a model that returns probabilities.
        """
        self._attack.check_epsilon(epsilon)
        epsilon = strength(epsilon)
        check_seed(seed)
        check_at_least("batch_size", batch_size, 1)
        if not 0 <= restart < self._attack.restarts:
            raise InputError(
                f"Expected restart from 0 to {self._attack.restarts - 1}. Received: {restart}."
            )
        craft = self._craft_batch or self._open(images)
        examples = check_examples(images, labels, self._num_classes)
        parts = []
        for begin in range(0, len(examples), batch_size):
            batch = examples.take(np.arange(begin, min(begin + batch_size, len(examples))))
            directions, keys = self._draws(batch, seed, restart, first_index + begin)
            adversarial = craft(
                tf.constant(batch.images),
                tf.constant(batch.labels),
                tf.constant(directions),
                tf.constant(epsilon, tf.float32),
                tf.constant(keys),
            ).numpy()
            _check_result(adversarial, batch.images, epsilon)
            parts.append(adversarial)
        return np.concatenate(parts)

    def _open(self, images: Any) -> Callable[..., tf.Tensor]:
        """Counts the model's classes and builds the graph, for images of one shape.

        The graph takes any number of images and any strength, so one trace serves every call.
        """
        self._num_classes = count_classes(self._members, images)
        self._craft_batch = self._craft
        if self._attack.in_graph:
            batch = tf.TensorSpec((None, *np.shape(images)[1:]), tf.float32)
            signature = [
                batch,
                tf.TensorSpec((None,), tf.int64),
                tf.TensorSpec((None,) * batch.shape.rank, tf.float32),
                tf.TensorSpec((), tf.float32),
                tf.TensorSpec((None, 2), tf.int32),
            ]
            # A partial: TensorFlow warns of retracing if one method is traced for many models.
            self._craft_batch = tf.function(
                functools.partial(self._craft), input_signature=signature
            )
        return self._craft_batch

    def _draws(
        self, batch: Split, seed: int, restart: int, first_index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Uniform draws from [-1, 1] for each pixel, and seeds, from each image's index."""
        sources = [(seed, restart, first_index + index) for index in range(len(batch))]
        keys = np.array([np.random.SeedSequence(s).generate_state(2) for s in sources])
        directions = np.zeros((1,) * batch.images.ndim)
        if self._attack.random_start:
            shape = batch.images.shape[1:]
            directions = np.array([np.random.default_rng(s).uniform(-1, 1, shape) for s in sources])
        return directions.astype("float32"), keys.astype("uint32").view("int32")

    def _craft(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        directions: tf.Tensor,
        epsilon: tf.Tensor,
        keys: tf.Tensor,
    ) -> tf.Tensor:
        """The attack's own steps between a start in the ball and a final projection onto it."""
        start = project(images + epsilon * directions, images, epsilon)
        batch = Batch(images, labels, start, epsilon, keys)
        adversarial = self._attack.perturb(self._model, batch)
        return project(adversarial, images, epsilon)


def strength(epsilon: Any) -> float:
    """A strength as a float; raises InputError unless it is a single number."""
    try:
        if isinstance(epsilon, str | bytes | bool) or np.ndim(epsilon):
            raise TypeError
        return float(epsilon)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"Expected epsilon as a number such as 8 / 255. Received: {epsilon!r}."
        ) from None


def _check_result(adversarial: np.ndarray, images: np.ndarray, epsilon: float) -> None:
    """Raises if an attack's result left its ball or [0, 1], or is not finite."""
    distance = np.abs(adversarial.astype("float64") - images).max()
    inside = distance <= epsilon + TOLERANCE and adversarial.min() >= 0 and adversarial.max() <= 1
    if not (inside and np.isfinite(adversarial).all()):
        raise RuntimeError(
            f"An attack's result is not within {epsilon} of its images and in [0, 1]: distance "
            f"{distance}, pixels from {adversarial.min()} to {adversarial.max()}."
        )
