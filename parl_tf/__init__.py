"""Ensembles of image classifiers that resist adversarial examples, and measures of how far.

PARL (arXiv 2112.04948) for Keras 3.
"""

import os
import sys

# The command line tools import what they need after they parsed their arguments: --help should
# not wait for TensorFlow. Everyone else gets the whole interface, with the classes registered so
# that `keras.models.load_model` finds them.
if not os.path.basename(sys.argv[0] if sys.argv else "").startswith("parl-"):
    from parl_tf.data import load_dataset
    from parl_tf.defences.base import Ensemble
    from parl_tf.defences.parl import PARL
    from parl_tf.exposure import expose_layers
    from parl_tf.models import resnet20

    __all__ = ["PARL", "Ensemble", "expose_layers", "load_dataset", "resnet20"]
