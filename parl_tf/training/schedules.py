"""Learning rate schedules that Keras does not have."""

import math
from typing import Any

import keras

from parl_tf.arguments import check_choice
from parl_tf.training.recipe import ANNEALING


@keras.saving.register_keras_serializable(package="parl_tf")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to its peak, and then falls to zero.

    Args:
        peak: The highest rate, of the first step after the warm-up.
        steps: Number of steps in all; a step after the last one would have a rate of zero.
        warm_up_steps: Number of steps before the peak; less than `steps`.
        annealing: How the rate falls: "linear", or "cosine" for half a cosine.

    Raises:
        InputError: An unknown annealing.
    """

    def __init__(
        self, peak: float, steps: int, warm_up_steps: int = 0, annealing: str = "cosine"
    ) -> None:
        check_choice("annealing", annealing, ANNEALING)
        super().__init__()
        self.peak, self.steps, self.warm_up_steps = peak, steps, warm_up_steps
        self.annealing = annealing

    def __call__(self, step: Any) -> Any:
        """The learning rate at a step, counted from 0."""
        step = keras.ops.cast(step, "float32")
        rise = (step + 1) / (self.warm_up_steps + 1)
        left = (self.steps - step) / (self.steps - self.warm_up_steps)
        left = keras.ops.clip(left, 0.0, 1.0)
        if self.annealing == "cosine":
            left = 0.5 * (1 - keras.ops.cos(math.pi * left))
        return self.peak * keras.ops.minimum(rise, left)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        names = ("peak", "steps", "warm_up_steps", "annealing")
        return {name: getattr(self, name) for name in names}
