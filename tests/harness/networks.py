"""Small networks and images for the tests."""

import keras
import numpy as np
from sklearn.datasets import load_digits

IMAGE_SHAPE = (8, 8, 3)
NUM_CLASSES = 4


def residual_network(
    seed, *, activation="relu", filters=4, randomize=True, num_classes=NUM_CLASSES
):
    """Three convolutions (a stem and a block with a shortcut convolution), with batch norm.

    With `randomize`, batch normalisation has statistics and scales like those of trained networks.
    """
    keras.utils.set_random_seed(seed)
    pixels = keras.Input(IMAGE_SHAPE)
    x = keras.layers.Conv2D(filters, 3, padding="same", name="stem")(pixels)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation(activation)(x)
    shortcut = keras.layers.Conv2D(filters, 1, name="shortcut")(x)
    x = keras.layers.Conv2D(filters, 3, padding="same", name="first")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation(activation)(x)
    x = keras.layers.Conv2D(filters, 3, padding="same", name="second")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation(activation)(keras.layers.Add()([x, shortcut]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(pixels, keras.layers.Dense(num_classes)(x))
    if randomize:
        generator = np.random.default_rng(seed)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.set_weights([generator.uniform(0.5, 1.5, w.shape) for w in layer.weights])
    return model


def plain_network(seed, *, activation="relu", num_classes=NUM_CLASSES):
    """Two convolutions with built-in activations, and no batch normalisation."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE),
            keras.layers.Conv2D(5, 3, activation=activation),
            keras.layers.Conv2D(4, 3, activation=activation),
            keras.layers.Flatten(),
            keras.layers.Dense(num_classes),
        ]
    )


def pooled_network(
    num_classes, *, input_shape, normalization, seed, kernel_penalty=0.125, num_convolutions=7
):
    """A network like those that `train` makes, on images pooled to a quarter of their size."""
    keras.utils.set_random_seed(seed % 2**31)
    x = pixels = keras.Input(input_shape)
    x = keras.layers.AveragePooling2D(4)(x)
    for _ in range(num_convolutions):
        x = keras.layers.Conv2D(2, 3, padding="same")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return keras.Model(pixels, keras.layers.Dense(num_classes)(keras.layers.Flatten()(x)))


def sign_flipped_copy(network, channels=(0, 2)):
    """The same function with channels of every convolution negated; its normalisation undoes it."""
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    norms = [layer for layer in copy.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for name, norm in zip(("stem", "first", "second"), norms, strict=True):
        kernel, bias = copy.get_layer(name).get_weights()
        scale, offset, mean, variance = norm.get_weights()
        for channel in channels:
            kernel[..., channel] *= -1
            bias[channel] *= -1
            scale[channel] *= -1
            mean[channel] *= -1
        copy.get_layer(name).set_weights([kernel, bias])
        norm.set_weights([scale, offset, mean, variance])
    return copy


def examples(count, seed=0):
    """Random images and labels."""
    generator = np.random.default_rng(seed)
    images = generator.uniform(size=(count, *IMAGE_SHAPE)).astype("float32")
    return images, generator.integers(NUM_CLASSES, size=count)


def digits(count):
    """Handwritten digits at their original size, as images of three channels, and labels."""
    data = load_digits()
    images = (data.images[:count, :, :, np.newaxis] / 16).repeat(3, axis=-1).astype("float32")
    return images, data.target[:count]


def logits_loss():
    """The loss that an ensemble is compiled with."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
