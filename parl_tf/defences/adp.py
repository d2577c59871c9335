"""ADP: members that disagree about the wrong classes."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from parl_tf.defences.base import Ensemble
from parl_tf.defences.forward import ForwardPass
from parl_tf.tensors import log_mean_probability

_OFFSET = 1e-6  # added to the diagonal, so that equal predictions have a determinant above zero


@keras.saving.register_keras_serializable(package="parl_tf")
class ADP(Ensemble):
    """Adaptive diversity promoting regularisation.

    Rewards the entropy of the members' mean prediction, and the determinant of the Gram matrix of
    their predictions without the true class, each scaled to unit length: the squared volume that
    they span. Reported as `entropy`, from 0 to log(classes), and `log_determinant`, from about
    (N - 1) log(1e-6) + log(N) for N equal predictions to 0 for orthogonal ones.

    Args:
        members: As for `Ensemble`.
        entropy_weight: Weight of the entropy (alpha).
        determinant_weight: Weight of the logarithm of the determinant (beta).
        **options: As for `Ensemble`.

    Raises:
        InputError: What `Ensemble` refuses.

    Example:
        >>> import parl_tf
        >>> network = dict(input_shape=(8, 8, 3), blocks=1)
        >>> members = [parl_tf.resnet20(10, seed=seed, **network) for seed in (0, 1)]
        >>> ensemble = parl_tf.ADP(members, entropy_weight=2.0, determinant_weight=0.5)
        >>> [term.name for term in ensemble.term_trackers]
        ['entropy', 'log_determinant']

    Source: Pang et al. 2019, arXiv 1901.08846, equation 5. Departure from the authors' code: the
    cross-entropy is that of the logits; theirs clips probabilities to at least 1e-7, so an example
    whose true class has less has no gradient.
    """

    def __init__(
        self,
        members: Sequence[keras.Model],
        *,
        entropy_weight: float = 2.0,
        determinant_weight: float = 0.5,
        **options: Any,
    ) -> None:
        weights = {"entropy": -float(entropy_weight), "log_determinant": -float(determinant_weight)}
        super().__init__(members, term_weights=weights, differentiated=None, **options)

    def terms(self, forward: ForwardPass) -> dict[str, tf.Tensor]:
        """Mean entropy and mean logarithm of the determinant."""
        log_mean = log_mean_probability(forward.logits)
        entropy = -tf.reduce_sum(tf.exp(log_mean) * log_mean, axis=-1)
        # A prediction without the true class has the direction of a softmax over the other classes,
        # which is defined for a saturated prediction too.
        logits = tf.stack(forward.logits, axis=1)
        true = tf.one_hot(forward.classes, self.num_classes, on_value=True, off_value=False)
        others = tf.nn.softmax(tf.where(true[:, tf.newaxis], logits.dtype.min, logits))
        # The offset is close to the rounding of float32.
        others = tf.cast(others, tf.float64)
        units = others * tf.math.rsqrt(tf.reduce_sum(tf.square(others), axis=-1, keepdims=True))
        gram = tf.matmul(units, units, transpose_b=True)
        factor = tf.linalg.cholesky(gram + _OFFSET * tf.eye(len(self.members), dtype=gram.dtype))
        log_determinant = 2 * tf.reduce_sum(tf.math.log(tf.linalg.diag_part(factor)), axis=-1)
        return {
            "entropy": tf.reduce_mean(entropy),
            "log_determinant": tf.cast(tf.reduce_mean(log_determinant), entropy.dtype),
        }

    def get_config(self) -> dict[str, Any]:
        """Members and arguments."""
        return {
            **super().get_config(),
            "entropy_weight": -self.term_weights["entropy"],
            "determinant_weight": -self.term_weights["log_determinant"],
        }
