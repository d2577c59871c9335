"""The paper's own numbers, shown next to ours.

Source: PARL, arXiv 2112.04948, Tables 1 and 2: vote accuracy in per cent of an ensemble of three
ResNet20, black box from one surrogate at epsilon 0.07, on 1,000 test images of the original
CIFAR-10 and CIFAR-100. PGD is the mean over 10 restarts.
"""

CITATION = (
    "PARL, arXiv 2112.04948, Tables 1 and 2: ensembles of three ResNet20, black box from one "
    "surrogate of the authors, epsilon 0.07, PGD averaged over 10 restarts"
)
TABLE1_COLUMNS = ("clean", "fgsm", "bim", "mim", "pgd")
TABLE1: dict[str, dict[str, tuple[float, ...] | None]] = {
    "cifar10": {
        "ENS_U": (93.11, 21.87, 7.47, 7.27, 1.57),
        "ADP": (92.99, 23.53, 8.13, 7.53, 3.08),
        "GAL": (91.22, 22.8, 9.3, 8.33, 7.64),
        "DVERGE": (91.73, 28.88, 11.78, 10.55, 9.68),
        "PARL/7": (91.09, 28.37, 20.8, 16.17, 15.65),
    },
    "cifar100": {
        "ENS_U": (70.88, 7.13, 7.17, 3.93, 5.39),
        "ADP": (70.01, 8.23, 10.07, 5.83, 8.72),
        "GAL": None,
        "DVERGE": None,
        "PARL/7": (67.52, 12.73, 18.97, 10.01, 21.49),
    },
}
TABLE2_LAYERS = (7, 5, 3)
TABLE2: dict[str, tuple[float, ...]] = {
    "cifar10": (91.09, 91.18, 92.45),
    "cifar100": (67.52, 67.54, 68.81),
}
