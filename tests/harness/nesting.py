"""Networks with models inside, and their flat twins."""

import keras

from harness.networks import IMAGE_SHAPE, NUM_CLASSES, residual_network


def features_of(network):
    """A network without its head, as in transfer learning: it ends with the block's activation."""
    return keras.Model(network.inputs, network.layers[-3].output)


def head(x, seed=0):
    """A convolution and the logits, on the output of a backbone."""
    initializers = [keras.initializers.GlorotUniform(seed + n) for n in range(2)]
    x = keras.layers.Conv2D(3, 3, kernel_initializer=initializers[0], name="last")(x)
    x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    return keras.layers.Dense(NUM_CLASSES, kernel_initializer=initializers[1])(x)


def nested_network(seed, **options):
    """A residual backbone as a model inside another, called with `options`, and a head."""
    backbone = features_of(residual_network(seed))
    pixels = keras.Input(IMAGE_SHAPE)
    return keras.Model(pixels, head(backbone(pixels, **options), seed))


def flat_network(seed):
    """The same network without a model inside."""
    backbone = features_of(residual_network(seed))
    return keras.Model(backbone.inputs, head(backbone.outputs[0], seed))
