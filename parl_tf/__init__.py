"""Ensembles of image classifiers trained to resist adversarial examples, and their evaluation.

PARL (arXiv 2112.04948) for Keras 3. The names in `parl_tf.__all__` are the public interface;
everything else may change between versions.

Example:
    The examples in all other docstrings continue from this one, in an empty folder.

    >>> import pathlib
    >>> import keras, numpy as np, tensorflow as tf
    >>> import parl_tf
    >>> dataset = parl_tf.load_dataset("digits", train_examples=64, validation_examples=32)
    >>> sample = dataset.test.sample(8, seed=0)
    >>> network = parl_tf.NETWORKS["resnet8"]
    >>> members = [network(10, normalization="digits", seed=seed) for seed in (0, 1)]
    >>> ensemble = parl_tf.Ensemble(members)
    >>> attacks = [parl_tf.FGSM(), parl_tf.PGD(num_steps=2, restarts=3)]
    >>> records = parl_tf.evaluate_robustness({"mine": ensemble}, attacks, 0.1, sample)
    >>> measured = parl_tf.measure_diversity("mine", ensemble, attacks[0], 0.1, sample)
"""

import importlib
import importlib.metadata
import sys
from typing import TYPE_CHECKING, Any

from parl_tf.errors import (
    BackendError,
    DivergedError,
    ExistingRunError,
    InputError,
    MissingExtraError,
    MissingFileError,
    UnreadableFileError,
)
from parl_tf.runtime.backend import check_backend

try:
    __version__ = importlib.metadata.version("parl_tf")
except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

_tools = sys.modules.get("parl_tf_tools")

if TYPE_CHECKING or not getattr(_tools, "is_tool", False):
    check_backend()

    # Registers every class, so that `keras.models.load_model` finds it.
    from parl_tf.attacks import ATTACKS
    from parl_tf.attacks.art.apgd import APGD
    from parl_tf.attacks.art.hop_skip_jump import HopSkipJump
    from parl_tf.attacks.art.square import Square
    from parl_tf.attacks.base import Attack
    from parl_tf.attacks.iterative import BIM, FGSM, PGD
    from parl_tf.attacks.momentum import MDI2FGSM, MIFGSM, MIM
    from parl_tf.attacks.sgm import SGM
    from parl_tf.attacks.uniform_noise import UniformNoise
    from parl_tf.data.augmentation import AUGMENTATIONS
    from parl_tf.data.batches import paired_batches, training_batches
    from parl_tf.data.datasets import Dataset, load_dataset
    from parl_tf.data.examples import Split
    from parl_tf.defences import METHODS
    from parl_tf.defences.adp import ADP
    from parl_tf.defences.adversarial_training import AdversarialTraining
    from parl_tf.defences.base import Ensemble
    from parl_tf.defences.dverge import DVERGE
    from parl_tf.defences.gal import GAL
    from parl_tf.defences.guardian import Guardian
    from parl_tf.defences.parl import PARL
    from parl_tf.defences.trs import TRS
    from parl_tf.diversity.cka import linear_cka
    from parl_tf.diversity.measuring import measure_diversity
    from parl_tf.evaluation.cases import Case
    from parl_tf.evaluation.diagnostics import masking_checks
    from parl_tf.evaluation.robustness import evaluate_cases, evaluate_robustness
    from parl_tf.evaluation.saved_examples import evaluate_examples
    from parl_tf.graphs.exposure import expose_layers
    from parl_tf.models import NETWORKS
    from parl_tf.models.resnet import resnet20
    from parl_tf.models.wide_resnet import wide_resnet
    from parl_tf.protocols import PROTOCOLS
    from parl_tf.protocols.base import Protocol
    from parl_tf.report import (
        Report,
        accuracy_figure,
        accuracy_table,
        cka_figure,
        markdown_table,
        write_report,
    )
    from parl_tf.results.diversity import DiversityRecord, load_diversity, save_diversity
    from parl_tf.results.files import load_records
    from parl_tf.results.records import Record, survived_all
    from parl_tf.runtime.determinism import enable_determinism
    from parl_tf.runtime.devices import spread_over
    from parl_tf.training.diagnostics import DiversityDiagnostics
    from parl_tf.training.fitting import build_ensemble, train
    from parl_tf.training.folders import load_model
    from parl_tf.training.optimizers import FusedAdam
    from parl_tf.training.recipe import Recipe
    from parl_tf.training.recipes import recipe_for
    from parl_tf.training.resuming import resume
else:

    def __getattr__(name: str) -> Any:
        """A public name within a command line tool; the first access imports all of them."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        _tools.is_tool = False
        return getattr(importlib.reload(sys.modules[__name__]), name)


__all__ = [
    "ADP",
    "APGD",
    "ATTACKS",
    "AUGMENTATIONS",
    "BIM",
    "DVERGE",
    "FGSM",
    "GAL",
    "MDI2FGSM",
    "METHODS",
    "MIFGSM",
    "MIM",
    "NETWORKS",
    "PARL",
    "PGD",
    "PROTOCOLS",
    "SGM",
    "TRS",
    "AdversarialTraining",
    "Attack",
    "BackendError",
    "Case",
    "Dataset",
    "DivergedError",
    "DiversityDiagnostics",
    "DiversityRecord",
    "Ensemble",
    "ExistingRunError",
    "FusedAdam",
    "Guardian",
    "HopSkipJump",
    "InputError",
    "MissingExtraError",
    "MissingFileError",
    "Protocol",
    "Recipe",
    "Record",
    "Report",
    "Split",
    "Square",
    "UniformNoise",
    "UnreadableFileError",
    "__version__",
    "accuracy_figure",
    "accuracy_table",
    "build_ensemble",
    "cka_figure",
    "enable_determinism",
    "evaluate_cases",
    "evaluate_examples",
    "evaluate_robustness",
    "expose_layers",
    "linear_cka",
    "load_dataset",
    "load_diversity",
    "load_model",
    "load_records",
    "markdown_table",
    "masking_checks",
    "measure_diversity",
    "paired_batches",
    "recipe_for",
    "resnet20",
    "resume",
    "save_diversity",
    "spread_over",
    "survived_all",
    "train",
    "training_batches",
    "wide_resnet",
    "write_report",
]
