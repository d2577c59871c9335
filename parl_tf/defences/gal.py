"""GAL: members whose loss gradients point in different directions."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from parl_tf.defences.base import Ensemble
from parl_tf.defences.forward import ForwardPass
from parl_tf.tensors import pairwise_cosine


@keras.saving.register_keras_serializable(package="parl_tf")
class GAL(Ensemble):
    """Gradient alignment loss (diversity training).

    Penalises `coherence`: for each example the logarithm of the sum, over pairs of members, of
    the exponential of the cosine of their loss gradients; the mean over examples. It lies between
    log(P) - 1 and log(P) + 1 for P pairs.

    Its authors train it with LeakyReLU networks (`resnet20(..., activation="leaky_relu")`) and
    noise on half of the inputs (`training_batches(..., noise_stddev=0.045)`).

    Args:
        members: As for `Ensemble`.
        coherence_weight: Weight of the coherence (lambda).
        member_reduction: As for `Ensemble`.
        **options: As for `Ensemble`.

    Raises:
        InputError: What `Ensemble` refuses.

    Example:
        >>> import parl_tf
        >>> network = dict(input_shape=(8, 8, 3), blocks=1)
        >>> members = [parl_tf.resnet20(10, seed=seed, **network) for seed in (0, 1)]
        >>> ensemble = parl_tf.GAL(members, coherence_weight=0.5)
        >>> [term.name for term in ensemble.term_trackers]
        ['coherence']

    Source: Kariyappa and Qureshi 2019, arXiv 1901.09981, equations 5 and 6. Departures from the
    common port (github.com/zjysteven/DVERGE): noisy images are clipped to [0, 1], and members run
    once per step, so moving statistics are updated once.
    """

    def __init__(
        self,
        members: Sequence[keras.Model],
        *,
        coherence_weight: float = 0.5,
        member_reduction: str = "mean",
        **options: Any,
    ) -> None:
        super().__init__(
            members,
            member_reduction=member_reduction,
            term_weights={"coherence": float(coherence_weight)},
            **options,
        )

    def terms(self, forward: ForwardPass) -> dict[str, tf.Tensor]:
        """The coherence."""
        cosines = pairwise_cosine(forward.loss_gradients())
        return {"coherence": tf.reduce_mean(tf.reduce_logsumexp(cosines, axis=1))}

    def get_config(self) -> dict[str, Any]:
        """Members and arguments."""
        return {**super().get_config(), "coherence_weight": self.term_weights["coherence"]}
