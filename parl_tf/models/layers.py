"""Layers and types shared by the networks."""

from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from parl_tf.arguments import check_at_least, check_choice
from parl_tf.data.datasets import PIXEL_STATISTICS
from parl_tf.errors import InputError
from parl_tf.runtime.replicas import num_replicas

Normalization = str | tuple[Sequence[float], Sequence[float]] | None
"""Normalisation of pixels in [0, 1] before the first layer: None for none, the name of a data set
for its per-channel mean and deviation, or these two as `(mean, deviation)`, in pixel units."""

ACTIVATIONS: dict[str, Callable[[], keras.Layer]] = {
    "relu": keras.layers.ReLU,
    "leaky_relu": lambda: keras.layers.LeakyReLU(negative_slope=0.1),
}
"""Activations by name."""

PADDINGS = ("same", "symmetric")
"""How strided convolutions are padded: "same" as Keras and TensorFlow do, a 3x3 kernel of stride 2
on an even size by one pixel below and to the right only; "symmetric" as PyTorch's networks are, by
one pixel on every side."""


def pixel_input(
    num_classes: int, input_shape: tuple[int, int, int], seed: int | None
) -> keras.KerasTensor:
    """Checks a network's arguments and returns its symbolic input.

    Raises:
        InputError: Fewer than two classes, a shape that is not (height, width, channels), or a
            negative seed.
    """
    check_at_least("num_classes", num_classes, 2)
    if len(input_shape) != 3 or any(not size or size < 1 for size in input_shape):
        raise InputError(
            f"Expected input_shape (height, width, channels). Received: {input_shape}."
        )
    if seed is not None and seed < 0:
        raise InputError(f"Expected seed of at least 0, or None. Received: {seed}.")
    return keras.Input(input_shape, name="pixels")


class Initializers:
    """he_normal initialisers, each with its own seed, all derived from one seed."""

    def __init__(self, seed: int | None) -> None:
        self._generator = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[keras.initializers.Initializer]:
        return self

    def __next__(self) -> keras.initializers.Initializer:
        return keras.initializers.HeNormal(seed=int(self._generator.integers(2**31)))


def convolution(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    strides: int,
    *,
    initializer: keras.initializers.Initializer,
    use_bias: bool,
    kernel_penalty: float,
    padding: str = "same",
) -> keras.KerasTensor:
    """A padded convolution, which reduces the image's size only by its strides.

    Its kernel, of an odd size, has an L2 penalty of `kernel_penalty` times the sum of its squares.
    """
    if kernel_penalty < 0:
        raise InputError(f"Expected kernel_penalty of at least 0. Received: {kernel_penalty}.")
    check_choice("padding", padding, PADDINGS)
    margin = kernel_size // 2
    explicit = padding == "symmetric" and strides > 1 and margin > 0
    if explicit:
        x = keras.layers.ZeroPadding2D(margin)(x)
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="valid" if explicit else "same",
        use_bias=use_bias,
        kernel_initializer=initializer,
        kernel_regularizer=keras.regularizers.L2(kernel_penalty) if kernel_penalty else None,
    )(x)


def batch_norm(
    x: keras.KerasTensor, *, epsilon: float = 1e-3, momentum: float = 0.99
) -> keras.KerasTensor:
    """Batch normalisation, synchronized if the network is made for several replicas.

    Raises:
        InputError: An epsilon that is not positive, or a momentum outside [0, 1).
    """
    if not 0 < epsilon < float("inf"):
        raise InputError(f"Expected a positive batch_norm_epsilon. Received: {epsilon}.")
    if not 0 <= momentum < 1:
        raise InputError(f"Expected batch_norm_momentum in [0, 1). Received: {momentum}.")
    return keras.layers.BatchNormalization(
        epsilon=epsilon, momentum=momentum, synchronized=num_replicas() > 1
    )(x)


def normalize(pixels: keras.KerasTensor, normalization: Normalization) -> keras.KerasTensor:
    """Applies a normalisation as a layer.

    Raises:
        InputError: An unknown data set; a mean or deviation that is not a finite number or one
            for each channel; or a deviation that is not positive.
    """
    if normalization is None:
        return pixels
    if isinstance(normalization, str):
        check_choice("normalization", normalization, PIXEL_STATISTICS)
        normalization = PIXEL_STATISTICS[normalization]
    try:
        mean, deviation = (np.atleast_1d(np.asarray(part, "float64")) for part in normalization)
    except (TypeError, ValueError):
        raise InputError(
            f"Expected normalization as (mean, deviation). Received: {normalization!r}."
        ) from None
    channels = pixels.shape[-1]
    if any(part.shape not in ((1,), (channels,)) for part in (mean, deviation)):
        raise InputError(
            f"Expected normalization as (mean, deviation), each a number or {channels} numbers. "
            f"Received: {normalization!r}."
        )
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation > 0).all()):
        raise InputError(
            f"Expected a finite mean and a positive deviation. Received: {normalization!r}."
        )
    mean, deviation = (np.broadcast_to(part, (channels,)) for part in (mean, deviation))
    return keras.layers.Normalization(
        axis=-1, mean=mean.tolist(), variance=np.square(deviation).tolist()
    )(pixels)
