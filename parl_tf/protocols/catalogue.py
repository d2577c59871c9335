"""The protocols."""

from parl_tf.attacks import PAPER_ATTACKS, names
from parl_tf.attacks.gradient import FUSIONS, LOSSES
from parl_tf.protocols.base import Protocol, Setting

_PAPER: tuple[Setting, ...] = tuple((name, {}) for name in PAPER_ATTACKS)
_BESIDE: tuple[Setting, ...] = ((names.MI_FGSM, {}),)
_BOTH = [{"loss": loss, "fusion": fusion} for loss in LOSSES for fusion in FUSIONS]

PAPER = Protocol(
    name="paper",
    description="Black box as in PARL's paper: one surrogate, 50 steps of a fifth of "
    "epsilon, 10 restarts of PGD. PGD's mean over restarts is the paper's column; its "
    "worst case per image and MI-FGSM with its authors' decay are shown beside it.",
    black_box=(*_PAPER, *_BESIDE),
    num_surrogates=(1, 1),
)

UNLIKE_SURROGATES = Protocol(
    name="unlike-surrogates",
    description="The paper's attacks from at least three unprotected surrogates that "
    "differ in seed, network and length of training. Each is a column; the headline is "
    "the fraction of images that survive all of them.",
    black_box=(*_PAPER, *_BESIDE),
    num_surrogates=(3, None),
    unlike=True,
)

DVERGE = Protocol(
    name="dverge",
    description="Transfer as DVERGE's authors measure it: PGD, MI-FGSM, M-DI2-FGSM and "
    "SGM with both losses and three fusions from several surrogates. An image counts only "
    "if it survives all. Source: arXiv 2009.14720, section 4.1; here the fusions are "
    "added, and PGD and MI-FGSM replace its PGD with momentum.",
    black_box=tuple(
        (name, {**both, **options})
        for both in _BOTH
        for name, options in (
            (names.PGD, {"restarts": 3}),
            (names.MI_FGSM, {}),
            (names.MDI2_FGSM, {}),
            (names.SGM, {}),
        )
    ),
    num_surrogates=(2, None),
)

WHITE_BOX = Protocol(
    name="white-box",
    description="Crafted on each target: the paper's attacks, and PGD with both losses "
    "and three fusions. The headline is the fraction of images that survive all.",
    white_box=(*_PAPER, *_BESIDE, *((names.PGD, both) for both in _BOTH)),
)

DIAGNOSTICS = Protocol(
    name="diagnostics",
    description="Checks whether a defence only masks gradients: white-box attacks with "
    "few and many steps, a gradient-free search (extra art), random noise, a large ball, "
    "and transfer from a surrogate. Source: arXiv 1902.06705.",
    black_box=((names.PGD, {"restarts": 1}),),
    white_box=(
        (names.FGSM, {}),
        (names.BIM, {}),
        (names.PGD, {"restarts": 5}),
        (names.PGD, {"restarts": 5, "num_steps": 200}),
        (names.UNIFORM_NOISE, {"restarts": 5}),
        (names.SQUARE, {}),
    ),
    epsilons=(0.01, 0.03, 0.07),
    further_white_box=(((names.PGD, {"restarts": 5}), 0.5),),
    num_surrogates=(1, None),
)
