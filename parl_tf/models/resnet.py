"""ResNet20, and its variants that the methods' authors trained."""

import functools
from typing import Any

import keras

from parl_tf.arguments import check_at_least, check_choice
from parl_tf.graphs.exposure import check_tap, layer_outputs
from parl_tf.models.layers import (
    ACTIVATIONS,
    Initializers,
    Normalization,
    batch_norm,
    convolution,
    normalize,
    pixel_input,
)

_FILTERS = (16, 32, 64)


def resnet20(
    num_classes: int,
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    normalization: Normalization = None,
    num_exposed: int = 0,
    tap: str = "activation",
    blocks: int = 3,
    activation: str = "relu",
    convolution_bias: bool = True,
    stem_batch_norm: bool = True,
    shortcut_batch_norm: bool = False,
    padding: str = "same",
    batch_norm_epsilon: float = 1e-3,
    batch_norm_momentum: float = 0.99,
    kernel_penalty: float = 1e-4,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """ResNet20 (version 1) for small images, returning logits.

    A stem convolution and three stages of three residual blocks with 16, 32 and 64 filters and
    he_normal kernels. Shortcuts are 1x1 convolutions at the start of the second and third stage.

    Args:
        num_classes: Number of classes, at least 2.
        input_shape: (height, width, channels) of an image.
        normalization: Normalisation of pixels before the stem: None for none, the name of a data
            set for its per-channel mean and deviation, or these two as `(mean, deviation)`, in
            pixel units of [0, 1].
        num_exposed: With k > 0 the model returns `[logits, output 1, ..., output k]`, the
            outputs of its first k convolutions (see `expose_layers`).
        tap: What counts as a convolution's output, if any are exposed.
        blocks: Residual blocks in each of the three stages: 3 for ResNet20, 1 for ResNet8.
        activation: "relu", or "leaky_relu" with a slope of 0.1 below zero (GAL).
        convolution_bias: Whether convolutions have biases (not in DVERGE's network).
        stem_batch_norm: Whether the stem is normalised (not in Guardian's network).
        shortcut_batch_norm: Whether shortcut convolutions are normalised (DVERGE's network).
        padding: How strided convolutions are padded: "same" as in Keras, which pads a 3x3 kernel
            of stride 2 on an even size below and to the right only, or "symmetric" by one pixel
            on every side, as in networks written with PyTorch.
        batch_norm_epsilon: Added to the variance in batch normalisation. On GPUs the fused
            operation takes at least 1.001e-5.
        batch_norm_momentum: Factor on the old moving statistics in each step: 0.9 is what PyTorch
            calls a momentum of 0.1.
        kernel_penalty: L2 penalty on the convolutions' kernels: the factor on their squares.
        seed: Seed of the initial weights; None draws one.
        name: Name of the model.

    Returns:
        Functional model from float pixels in [0, 1] of shape (batch, *input_shape) to logits
        (batch, num_classes). 274,442 parameters for 10 classes, 280,292 for 100.

    Raises:
        InputError: An argument outside the values above.

    Example:
        >>> import parl_tf
        >>> network = parl_tf.resnet20(10, normalization="cifar10", seed=0)
        >>> network.input_shape, network.output_shape, network.count_params()
        ((None, 32, 32, 3), (None, 10), 274442)

    Source: He et al. 2016, arXiv 1512.03385, section 4.2, in the form of the Keras CIFAR-10
    example.
    """
    check_tap(tap)
    check_at_least("num_exposed", num_exposed, 0)
    check_at_least("blocks", blocks, 1)
    check_choice("activation", activation, ACTIVATIONS)
    activate = ACTIVATIONS[activation]
    pixels = pixel_input(num_classes, input_shape, seed)
    initializers = Initializers(seed)

    def convolve(
        x: keras.KerasTensor, filters: int, kernel_size: int, strides: int, normalized: bool = True
    ) -> keras.KerasTensor:
        x = convolution(
            x,
            filters,
            kernel_size,
            strides,
            initializer=next(initializers),
            use_bias=convolution_bias,
            kernel_penalty=kernel_penalty,
            padding=padding,
        )
        if not normalized:
            return x
        return batch_norm(x, epsilon=batch_norm_epsilon, momentum=batch_norm_momentum)

    x = normalize(pixels, normalization)
    x = activate()(convolve(x, _FILTERS[0], 3, 1, stem_batch_norm))
    for stage, filters in enumerate(_FILTERS):
        for block in range(blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            shortcut = x
            x = activate()(convolve(x, filters, 3, strides))
            x = convolve(x, filters, 3, 1)
            if strides != 1:
                shortcut = convolve(shortcut, filters, 1, strides, shortcut_batch_norm)
            x = activate()(keras.layers.Add()([x, shortcut]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    logits = keras.layers.Dense(num_classes, kernel_initializer=next(initializers), name="logits")(
        x
    )
    model = keras.Model(pixels, logits, name=name)
    if not num_exposed:
        return model
    outputs = layer_outputs(model, num_exposed, tap=tap)
    return keras.Model(pixels, [logits, *outputs], name=name)


resnet20_leaky_relu = functools.partial(resnet20, activation="leaky_relu")
"""The network that GAL was published with. Source: arXiv 1901.09981, section 5."""

# PyTorch's, with which DVERGE, TRS and Guardian were published. Its epsilon is 1e-5, slightly less
# than the fused operation accepts.
_AS_IN_PYTORCH: dict[str, Any] = {
    "padding": "symmetric",
    "batch_norm_epsilon": 1.001e-5,
    "batch_norm_momentum": 0.9,
}

resnet20_shortcut_batch_norm = functools.partial(
    resnet20, convolution_bias=False, shortcut_batch_norm=True, **_AS_IN_PYTORCH
)
"""The network that DVERGE and TRS were published with. Source: the authors' code for
arXiv 2009.14720 and 2104.00671."""

resnet20_bare_stem = functools.partial(resnet20, stem_batch_norm=False, **_AS_IN_PYTORCH)
"""The network that Guardian was published with. Source: the authors' code for arXiv 2112.04948
v2."""

resnet8 = functools.partial(resnet20, blocks=1)
"""A smaller ResNet with seven main convolutions, for trying things out."""

resnet8_shortcut_batch_norm = functools.partial(resnet20_shortcut_batch_norm, blocks=1)
"""A smaller version of the network that DVERGE and TRS were published with."""
