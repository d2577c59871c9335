"""Ensembles of image classifiers that resist adversarial examples, and measures of how far.

PARL (arXiv 2112.04948) for Keras 3.
"""

import os
import sys

# The command line tools import what they need after they parsed their arguments: --help should
# not wait for TensorFlow. Everyone else gets the whole interface, with the classes registered so
# that `keras.models.load_model` finds them.
_TOOLS = ("parl-train", "parl-attack", "parl-quickstart")
if os.path.basename(sys.argv[0] if sys.argv else "").removesuffix(".exe") not in _TOOLS:
    from parl_tf.attacks.bim import BIM
    from parl_tf.attacks.fgsm import FGSM
    from parl_tf.attacks.mim import MIM
    from parl_tf.attacks.pgd import PGD
    from parl_tf.augmentation import training_batches
    from parl_tf.data import load_dataset
    from parl_tf.defences.base import Ensemble
    from parl_tf.defences.parl import PARL
    from parl_tf.evaluation import evaluate_robustness
    from parl_tf.exposure import expose_layers
    from parl_tf.models.resnet import resnet20

    __all__ = [
        "BIM",
        "FGSM",
        "MIM",
        "PARL",
        "PGD",
        "Ensemble",
        "evaluate_robustness",
        "expose_layers",
        "load_dataset",
        "resnet20",
        "training_batches",
    ]
