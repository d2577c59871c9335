"""Ensembles of image classifiers that resist adversarial examples, and measures of how far.

PARL (arXiv 2112.04948) for Keras 3.
"""

import os
import sys

from parl_tf.runtime.backend import check_backend

# The command line tools import what they need after they parsed their arguments: --help should
# not wait for TensorFlow. Everyone else gets the whole interface, with the classes registered so
# that `keras.models.load_model` finds them.
_TOOLS = tuple(
    f"parl-{tool}" for tool in ("train", "attack", "diversity", "report", "reproduce", "quickstart")
)


def _is_tool() -> bool:
    """Whether this process is a tool: parl-train, or python -m parl_tf.cli.train."""
    program = os.path.basename(sys.argv[0] if sys.argv else "").removesuffix(".exe")
    if program == "-m":  # until the module is found
        return any("parl_tf.cli." in argument for argument in sys.orig_argv)
    return program in _TOOLS


if not _is_tool():
    check_backend()  # the tools do so themselves, and end in a message

    from parl_tf.attacks.iterative import BIM, FGSM, PGD
    from parl_tf.attacks.momentum import MDI2FGSM, MIFGSM, MIM
    from parl_tf.attacks.sgm import SGM
    from parl_tf.attacks.uniform_noise import UniformNoise
    from parl_tf.data.batches import paired_batches, training_batches
    from parl_tf.data.datasets import load_dataset
    from parl_tf.data.examples import Split
    from parl_tf.defences.adp import ADP
    from parl_tf.defences.adversarial_training import AdversarialTraining
    from parl_tf.defences.base import Ensemble
    from parl_tf.defences.dverge import DVERGE
    from parl_tf.defences.gal import GAL
    from parl_tf.defences.guardian import Guardian
    from parl_tf.defences.parl import PARL
    from parl_tf.defences.trs import TRS
    from parl_tf.evaluation.robustness import evaluate_robustness
    from parl_tf.graphs.exposure import expose_layers
    from parl_tf.models.resnet import resnet20
    from parl_tf.models.wide_resnet import wide_resnet
    from parl_tf.training.diagnostics import DiversityDiagnostics

    __all__ = [
        "ADP",
        "BIM",
        "DVERGE",
        "FGSM",
        "GAL",
        "MDI2FGSM",
        "MIFGSM",
        "MIM",
        "PARL",
        "PGD",
        "SGM",
        "TRS",
        "AdversarialTraining",
        "DiversityDiagnostics",
        "Ensemble",
        "Guardian",
        "Split",
        "UniformNoise",
        "evaluate_robustness",
        "expose_layers",
        "load_dataset",
        "paired_batches",
        "resnet20",
        "training_batches",
        "wide_resnet",
    ]
