"""Networks by name, each a function from the number of classes to a Keras model.

A new one is a function in a file beside this one and a line here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from parl_tf.registry import Registry

if TYPE_CHECKING:
    import keras

__all__ = ["NETWORKS"]

NETWORKS: "Registry[Callable[..., keras.Model]]" = Registry(
    "network",
    {
        "resnet20": "parl_tf.models.resnet:resnet20",
        "resnet20-leaky-relu": "parl_tf.models.resnet:resnet20_leaky_relu",
        "resnet20-shortcut-batch-norm": "parl_tf.models.resnet:resnet20_shortcut_batch_norm",
        "resnet20-bare-stem": "parl_tf.models.resnet:resnet20_bare_stem",
        "resnet8": "parl_tf.models.resnet:resnet8",
        "resnet8-shortcut-batch-norm": "parl_tf.models.resnet:resnet8_shortcut_batch_norm",
        "wide-resnet-28-10": "parl_tf.models.wide_resnet:wide_resnet",
    },
)
"""Networks by name: a mapping to functions from the number of classes to a Keras model.

Example:
    >>> network = parl_tf.NETWORKS["resnet8"](10, normalization="digits", seed=0)
    >>> network.input_shape, network.output_shape
    ((None, 32, 32, 3), (None, 10))
"""
