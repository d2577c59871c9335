"""The paper's own numbers, shown beside ours.

Source: PARL, arXiv 2112.04948, Tables 1 and 2: vote accuracy in per cent of an ensemble of three
ResNet20, black box from one surrogate at epsilon 0.07, on 1,000 test images of the original
CIFAR-10 and CIFAR-100. PGD is the mean over 10 restarts.
"""

from parl_tf.attacks import PAPER_ATTACKS
from parl_tf.results.settings import UNPROTECTED, Setting

CITATION = (
    "PARL, arXiv 2112.04948, Tables 1 and 2: ensembles of three ResNet20, black box from one "
    "surrogate of the authors, epsilon 0.07, PGD averaged over 10 restarts"
)
TABLE1_COLUMNS = ("clean", *PAPER_ATTACKS)
TABLE1: dict[str, dict[Setting, tuple[float, ...] | None]] = {
    "cifar10": {
        UNPROTECTED: (93.11, 21.87, 7.47, 7.27, 1.57),
        Setting(method="adp"): (92.99, 23.53, 8.13, 7.53, 3.08),
        Setting(method="gal"): (91.22, 22.8, 9.3, 8.33, 7.64),
        Setting(method="dverge"): (91.73, 28.88, 11.78, 10.55, 9.68),
        Setting(method="parl", num_layers=7): (91.09, 28.37, 20.8, 16.17, 15.65),
    },
    "cifar100": {
        UNPROTECTED: (70.88, 7.13, 7.17, 3.93, 5.39),
        Setting(method="adp"): (70.01, 8.23, 10.07, 5.83, 8.72),
        Setting(method="gal"): None,
        Setting(method="dverge"): None,
        Setting(method="parl", num_layers=7): (67.52, 12.73, 18.97, 10.01, 21.49),
    },
}
TABLE2_LAYERS = (7, 5, 3)
TABLE2: dict[str, tuple[float, ...]] = {
    "cifar10": (91.09, 91.18, 92.45),
    "cifar100": (67.52, 67.54, 68.81),
}
