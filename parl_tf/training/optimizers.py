"""Adam in one operation a weight."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf


def _none(key: Any) -> None:
    """Nothing, whatever is asked for."""


class _Shared(NamedTuple):
    """What is the same for every weight of a type in one step: tensors of that type."""

    betas: list[tf.Tensor]
    beta_powers: list[tf.Tensor]
    epsilon: tf.Tensor
    factor: tf.Tensor


@keras.saving.register_keras_serializable(package="parl_tf")
class FusedAdam(keras.optimizers.Adam):
    """Keras's Adam, in one operation for each weight; Keras takes 39.

    Arguments, variables and files are those of `keras.optimizers.Adam`, and so are the updates, up
    to rounding. A step takes less time, and its graph is traced sooner. Keras's own operations
    update weights that are neither float32 nor float64 or have sparse gradients, and all weights
    with `amsgrad` or a `beta_2` that rounds to 1.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        >>> model = keras.Sequential([keras.Input((1,)), layer])
        >>> model.compile(parl_tf.FusedAdam(0.5), "mse")
        >>> history = model.fit(np.ones((1, 1)), np.ones((1, 1)), verbose=0)
        >>> round(float(layer.kernel[0, 0]), 3)
        0.5
    """

    _moments_of: Callable[[Any], Any]
    _shared_of: Callable[[tf.DType], _Shared | None] = staticmethod(_none)

    def add_optimizer_variables(self, trainable_variables: Any, name: Any, *options: Any) -> Any:
        """As Keras's, which `build` calls for the moments."""
        made = super().add_optimizer_variables(trainable_variables, name, *options)
        if not isinstance(name, str):
            # A bound method: Keras would track a dictionary, and could not save it.
            self._moments_of = {
                component.ref(): moments
                for variable, *moments in zip(trainable_variables, *made, strict=True)
                for component in tf.distribute.get_strategy().experimental_local_results(
                    variable.value
                )
            }.get
        return made

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """As Keras's, with what is the same for every weight computed once."""
        self._shared_of = {dtype: self._shared(dtype) for dtype in (tf.float32, tf.float64)}.get
        try:
            super().apply(grads, trainable_variables)
        finally:
            self._shared_of = _none  # on several devices each replica comes here

    def _shared(self, dtype: tf.DType) -> _Shared | None:
        """What is the same for every weight of a type; None if Keras is to update them."""
        number = dtype.as_numpy_dtype
        if self.amsgrad or number(self.beta_2) == 1:
            return None
        # Keras rounds 1 - beta_2, this operation beta_2: its second moments are larger by a factor.
        factor = math.sqrt((1 - float(number(self.beta_2))) / (1 - self.beta_2))
        betas = self.beta_1, self.beta_2
        step = tf.cast(self.iterations + 1, dtype)
        return _Shared(
            [tf.constant(beta, dtype) for beta in betas],
            [tf.pow(tf.cast(beta, dtype), step) for beta in betas],  # of float32's, as in Keras
            tf.constant(self.epsilon * factor, dtype),
            tf.constant(factor, dtype),
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """As Keras's, on one weight."""
        moments = self._moments_of(variable.ref())
        shared = self._shared_of(variable.dtype)
        if moments is None or shared is None or not isinstance(gradient, tf.Tensor):
            super().update_step(gradient, variable, learning_rate)
            return
        first, second = (moment.value for moment in moments)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=shared.beta_powers[0],
            beta2_power=shared.beta_powers[1],
            lr=tf.cast(learning_rate, variable.dtype) * shared.factor,
            beta1=shared.betas[0],
            beta2=shared.betas[1],
            epsilon=shared.epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )
