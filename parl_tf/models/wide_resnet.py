"""WideResNet, the field's usual large network."""

import keras

from parl_tf.arguments import check_at_least
from parl_tf.errors import InputError
from parl_tf.models.layers import (
    Initializers,
    Normalization,
    batch_norm,
    convolution,
    normalize,
    pixel_input,
)

_FILTERS = (16, 32, 64)


def wide_resnet(
    num_classes: int,
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    normalization: Normalization = None,
    depth: int = 28,
    width: int = 10,
    padding: str = "same",
    batch_norm_epsilon: float = 1e-3,
    batch_norm_momentum: float = 0.99,
    kernel_penalty: float = 2.5e-4,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """WideResNet for small images, returning logits; WideResNet-28-10 by default.

    A stem convolution of 16 filters and three stages of residual blocks with 16, 32 and 64 times
    `width` filters, with normalisation and activation before each convolution and without biases
    or dropout. Shortcuts are 1x1 convolutions at the start of each stage.

    Args:
        num_classes: Number of classes, at least 2.
        input_shape: (height, width, channels) of an image.
        normalization: As for `resnet20`.
        depth: Layers as the paper counts them, 6n + 4 for n blocks per stage.
        width: Factor on the number of filters.
        padding: As for `resnet20`; "symmetric" in the authors' code.
        batch_norm_epsilon: As for `resnet20`; 1e-5 in the authors' code.
        batch_norm_momentum: As for `resnet20`; 0.9 in the authors' code.
        kernel_penalty: L2 penalty on the convolutions' kernels: the factor on their squares. The
            default has the gradient of the paper's weight decay of 5e-4.
        seed: Seed of the initial weights; None draws one.
        name: Name of the model.

    Returns:
        Functional model from float pixels in [0, 1] of shape (batch, *input_shape) to logits
        (batch, num_classes). WideResNet-28-10 for 10 classes has 36,479,194 trainable parameters.

    Raises:
        InputError: An argument outside the values above.

    Example:
        >>> import parl_tf
        >>> network = parl_tf.wide_resnet(10, depth=10, width=1, seed=0)
        >>> network.output_shape
        (None, 10)

    Source: Zagoruyko and Komodakis 2016, arXiv 1605.07146, table 1.
    """
    if depth < 10 or (depth - 4) % 6:
        raise InputError(f"Expected depth of 10, 16, 22, 28 and so on. Received: {depth}.")
    check_at_least("width", width, 1)
    pixels = pixel_input(num_classes, input_shape, seed)
    initializers = Initializers(seed)

    def convolve(
        x: keras.KerasTensor, filters: int, kernel_size: int, strides: int
    ) -> keras.KerasTensor:
        return convolution(
            x,
            filters,
            kernel_size,
            strides,
            initializer=next(initializers),
            use_bias=False,
            kernel_penalty=kernel_penalty,
            padding=padding,
        )

    def activate(x: keras.KerasTensor) -> keras.KerasTensor:
        x = batch_norm(x, epsilon=batch_norm_epsilon, momentum=batch_norm_momentum)
        return keras.layers.ReLU()(x)

    x = convolve(normalize(pixels, normalization), _FILTERS[0], 3, 1)
    for stage, filters in enumerate(_FILTERS):
        for block in range((depth - 4) // 6):
            strides = 2 if stage > 0 and block == 0 else 1
            active = activate(x)
            # At the start of a stage the shortcut, too, begins after the activation.
            shortcut = convolve(active, filters * width, 1, strides) if block == 0 else x
            active = activate(convolve(active, filters * width, 3, strides))
            x = keras.layers.Add()([convolve(active, filters * width, 3, 1), shortcut])
    x = keras.layers.GlobalAveragePooling2D()(activate(x))
    logits = keras.layers.Dense(num_classes, kernel_initializer=next(initializers), name="logits")(
        x
    )
    return keras.Model(pixels, logits, name=name)
