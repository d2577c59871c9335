"""Adapts members to the Adversarial Robustness Toolbox, and runs its attacks from seeds."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from parl_tf.attacks.base import Batch
from parl_tf.attacks.gradient import fused_logits
from parl_tf.attacks.members import MemberLogits
from parl_tf.errors import MissingExtraError

try:
    with warnings.catch_warnings():
        # It warns of features that need PyTorch; none are used here.
        warnings.filterwarnings("ignore", "PyTorch not found", UserWarning)
        from art.estimators import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin
        from art.estimators.classification.classifier import ClassifierMixin
except ImportError as error:
    raise MissingExtraError(
        "This attack needs the Adversarial Robustness Toolbox. Install it with the extra art: "
        "pip install 'parl_tf[art]'."
    ) from error


Objective = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From labels (batch,) and members' log-probabilities (members, batch, classes) to losses."""


def generate(attack: Any, batch: Batch, **options: Any) -> tf.Tensor:
    """Runs an attack of the toolbox on a batch.

    It draws from NumPy's global generator, which is seeded for the run and then restored. The
    result depends on the seeds of the whole batch, and so on `batch_size`.

    Args:
        attack: The toolbox's attack on a `Classifier`.
        batch: The images, labels and seeds.
        **options: Further arguments of the toolbox's `generate`.

    Returns:
        float32 tensor of the shape of the images.

    Source: Nicolae et al. 2018, arXiv 1807.01069.
    """
    with _seeded(batch.keys.numpy()):
        found = attack.generate(batch.images.numpy().copy(), batch.labels.numpy(), **options)
    return tf.constant(found, tf.float32)


class Classifier(ClassifierMixin, LossGradientsMixin, NeuralNetworkMixin, BaseEstimator):
    """Members as one classifier of the toolbox, with the loss of an attack.

    Args:
        model: From images to the members' log-probabilities, (members, batch, classes).
        batch: Images of the shape to attack.
        objective: The loss to differentiate; None for an attack without gradients.
    """

    def __init__(
        self, model: MemberLogits, batch: Batch, objective: Objective | None = None
    ) -> None:
        self._shape = tuple(batch.images.shape[1:])
        super().__init__(
            model=model, clip_values=(0.0, 1.0), channels_first=False, preprocessing=None
        )
        images = tf.TensorSpec((None, *self._shape), tf.float32)
        labels = tf.TensorSpec((None,), tf.int64)

        def loss_of(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            if objective is None:
                raise NotImplementedError
            return objective(labels, model(images))

        def gradient_of(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                loss = loss_of(images, labels)
            return tape.gradient(loss, images)

        self._logits = tf.function(lambda x: fused_logits(model, x), input_signature=[images])
        self._losses = tf.function(loss_of, input_signature=[images, labels])
        self._gradients = tf.function(gradient_of, input_signature=[images, labels])
        self.nb_classes = int(self._logits(batch.images[:1]).shape[-1])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape (height, width, channels) of an image."""
        return self._shape

    def predict(self, x: np.ndarray, batch_size: int = 128, **options: Any) -> np.ndarray:
        """The logarithm of the members' mean probability, (batch, classes)."""
        return self._logits(np.asarray(x, "float32")).numpy()

    def loss_gradient(self, x: np.ndarray, y: np.ndarray, **options: Any) -> np.ndarray:
        """Gradient of the loss with respect to the pixels; labels one-hot."""
        return self._gradients(np.asarray(x, "float32"), np.argmax(y, axis=1)).numpy()

    def compute_loss(
        self, x: np.ndarray, y: np.ndarray, reduction: str = "none", **options: Any
    ) -> np.ndarray:
        """The loss of each image, (batch,); labels one-hot."""
        return self._losses(np.asarray(x, "float32"), np.argmax(y, axis=1)).numpy()

    def fit(self, x: Any, y: Any, *arguments: Any, **options: Any) -> None:
        """Not offered."""
        raise NotImplementedError

    def get_activations(self, *arguments: Any, **options: Any) -> Any:
        """Not offered."""
        raise NotImplementedError


@contextlib.contextmanager
def _seeded(keys: np.ndarray) -> Iterator[None]:
    """Seeds NumPy's global generator, which the toolbox draws from, and then restores it."""
    state = np.random.get_state()
    np.random.seed(keys.view("uint32").ravel())
    try:
        yield
    finally:
        np.random.set_state(state)
