"""Adam in one operation a weight."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


def _none(key: Any) -> None:
    """Nothing, whatever is asked for."""


@keras.saving.register_keras_serializable(package="parl_tf")
class FusedAdam(keras.optimizers.Adam):
    """Keras's Adam, in one operation for each weight; Keras takes 39.

    Arguments, variables and files are those of `keras.optimizers.Adam`, and so are the updates, up
    to rounding. A step takes less time, and its graph is traced sooner. Keras's own operations
    update weights that are neither float32 nor float64 or have sparse gradients, and all weights
    with `amsgrad`.

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
    _powers_of: Callable[[tf.DType], list[tf.Tensor] | None] = staticmethod(_none)

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
        self._powers_of = {
            dtype: [
                tf.pow(tf.cast(beta, dtype), tf.cast(self.iterations + 1, dtype))
                for beta in (self.beta_1, self.beta_2)
            ]
            for dtype in (tf.float32, tf.float64)
        }.get
        try:
            super().apply(grads, trainable_variables)
        finally:
            self._powers_of = _none  # on several devices each replica comes here

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """As Keras's, on one weight."""
        moments = self._moments_of(variable.ref())
        powers = self._powers_of(variable.dtype)
        dense = isinstance(gradient, tf.Tensor)
        if self.amsgrad or not dense or moments is None or powers is None:
            super().update_step(gradient, variable, learning_rate)
            return
        first, second = (moment.value for moment in moments)
        # Keras rounds 1 - beta_2, this operation beta_2: its second moments are larger by a factor.
        number = variable.dtype.as_numpy_dtype
        factor = math.sqrt((1 - float(number(self.beta_2))) / (1 - self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=powers[0],
            beta2_power=powers[1],
            lr=tf.cast(learning_rate, variable.dtype) * number(factor),
            beta1=number(self.beta_1),
            beta2=number(self.beta_2),
            epsilon=number(self.epsilon * factor),
            grad=tf.cast(gradient, variable.dtype),
        )
