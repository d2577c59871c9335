"""Networks, with the normalisation of their inputs inside."""

from collections.abc import Sequence

import keras
import numpy as np

from parl_tf.data import PIXEL_STATISTICS
from parl_tf.errors import InputError
from parl_tf.exposure import check_tap, layer_outputs
from parl_tf.registry import check_choice

_FILTERS = (16, 32, 64)
_BLOCKS = 3


def resnet20(
    num_classes: int,
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    normalization: str | tuple[Sequence[float], Sequence[float]] | None = None,
    num_exposed: int = 0,
    tap: str = "activation",
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """ResNet20 (version 1) for small images, returning logits.

    A stem convolution and three stages of three residual blocks with 16, 32 and 64 filters;
    convolutions with bias, he_normal kernels and an L2 penalty of 1e-4; shortcuts of 1x1
    convolutions without batch normalisation where a stage begins.

    Args:
        num_classes: Number of classes, at least 2.
        input_shape: (height, width, channels) of an image.
        normalization: What is done to pixels in [0, 1] before the stem: None for nothing, the
            name of a data set for its per-channel mean and deviation, or these two themselves as
            `(mean, deviation)`, in pixel units of [0, 1].
        num_exposed: With k > 0 the model returns `[logits, output 1, ..., output k]`, the
            outputs of its first k convolutions (see `expose_layers`).
        tap: What counts as a convolution's output, if any are exposed.
        seed: Seed of the initial weights; None draws one.
        name: Name of the model.

    Returns:
        Functional model from float pixels in [0, 1] of shape (batch, *input_shape) to logits
        (batch, num_classes). 274,442 parameters for 10 classes, 280,292 for 100.

    Raises:
        InputError: An argument outside the values above.

    Source: He et al. 2016, arXiv 1512.03385, section 4.2, in the form of the Keras CIFAR-10
    example.
    """
    if num_classes < 2:
        raise InputError(f"Expected num_classes of at least 2. Received: {num_classes}.")
    if len(input_shape) != 3 or any(not size or size < 1 for size in input_shape):
        raise InputError(
            f"Expected input_shape (height, width, channels). Received: {input_shape}."
        )
    if seed is not None and seed < 0:
        raise InputError(f"Expected seed of at least 0, or None. Received: {seed}.")
    check_tap(tap)
    if num_exposed < 0:
        raise InputError(f"Expected num_exposed of at least 0. Received: {num_exposed}.")
    initializer = _initializers(seed)
    pixels = keras.Input(input_shape, name="pixels")
    x = _normalize(pixels, normalization)
    x = _convolution(x, _FILTERS[0], 3, 1, initializer)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    for stage, filters in enumerate(_FILTERS):
        for block in range(_BLOCKS):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _residual_block(x, filters, stride, initializer)
    x = keras.layers.GlobalAveragePooling2D()(x)
    logits = keras.layers.Dense(num_classes, kernel_initializer=next(initializer), name="logits")(x)
    model = keras.Model(pixels, logits, name=name)
    if not num_exposed:
        return model
    outputs = layer_outputs(model, num_exposed, tap=tap)
    return keras.Model(pixels, [logits, *outputs], name=name)


def _residual_block(x, filters, stride, initializer):
    """Two convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""
    shortcut = x
    x = _convolution(x, filters, 3, stride, initializer)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = _convolution(x, filters, 3, 1, initializer)
    x = keras.layers.BatchNormalization()(x)
    if stride != 1:
        shortcut = _convolution(shortcut, filters, 1, stride, initializer)
    return keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))


def _convolution(x, filters, kernel_size, stride, initializer):
    """A convolution in the house form."""
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding="same",
        kernel_initializer=next(initializer),
        kernel_regularizer=keras.regularizers.L2(1e-4),
    )(x)


def _initializers(seed):
    """Yields he_normal initialisers, each with a seed of its own."""
    generator = np.random.default_rng(seed)
    while True:
        yield keras.initializers.HeNormal(seed=int(generator.integers(2**31)))


def _normalize(pixels, normalization):
    """Applies the normalisation that `resnet20` describes."""
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
