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
    "worst case for each image stands beside it, as does MI-FGSM with its authors' decay.",
    black_box=(*_PAPER, *_BESIDE),
    num_surrogates=(1, 1),
)

UNLIKE_SURROGATES = Protocol(
    name="unlike-surrogates",
    description="The paper's attacks from at least three unprotected surrogates that "
    "differ in seed, network and length of training. Each is a column; the headline is "
    "the part of the images that survives all of them.",
    black_box=(*_PAPER, *_BESIDE),
    num_surrogates=(3, None),
    unlike=True,
)

DVERGE = Protocol(
    name="dverge",
    description="Transfer as DVERGE's authors measure it: PGD, MI-FGSM, M-DI2-FGSM and "
    "SGM with both losses and three fusions from several surrogates. An image counts only "
    "if it survives all. Source: arXiv 2009.14720, section 4.1; the fusions are added, "
    "and its PGD with momentum is PGD and MI-FGSM here.",
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
    "and three fusions. The headline is the part of the images that survives all.",
    white_box=(*_PAPER, *_BESIDE, *((names.PGD, both) for both in _BOTH)),
)

DIAGNOSTICS = Protocol(
    name="diagnostics",
    description="What tells whether a defence only masks gradients: white box by few "
    "and many steps, by a search without gradients (extra art), by noise and in a large "
    "ball, beside transfer from a surrogate. Source: arXiv 1902.06705.",
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
