"""Rough estimates of the duration of jobs on two CPU cores."""

from parl_tf.attacks import ATTACKS
from parl_tf.cli import attack, train
from parl_tf.reproduction.grid import Job
from parl_tf.training.recipes import recipe_for

_START = 15.0  # seconds that a tool takes to start: imports, data, first graph
# Seconds per training step of 64 images with three ResNet20, measured on two cores.
_STEP = {
    "unprotected": 0.55,
    "adp": 0.55,
    "gal": 1.35,
    "dverge": 3.8,
    "trs": 1.35,
    "guardian": 1.1,
    "parl": 1.25,
}
_MOVED = 3.45  # seconds that moving half of the images adds to a step of TRS
_ADVERSARIAL = 2.4  # seconds that adversarial training adds to a step
_GRADIENT = 0.006  # seconds per attack step and image
_PREDICTION = 0.002  # seconds per prediction of one image
_DIVERSITY = 0.1  # seconds of all diversity measures per image
_SMALL = 0.25  # cost of ResNet8 relative to ResNet20
_EXAMPLES = {"digits": 1297, "cifar10": 50000, "cifar100": 50000}


def seconds(job: Job) -> float:
    """Estimated wall time of a job, in seconds."""
    estimate = {"train": _training, "attack": _attack, "diversity": _diversity}.get(job.tool)
    return _START + (estimate(job) if estimate else 0.0)


def _training(job: Job) -> float:
    """Seconds of all training steps."""
    given = train.parser().parse_args(job.arguments)
    changes = {
        name: getattr(given, name)
        for name in ("epochs", "batch_size", "network")
        if getattr(given, name) is not None
    }
    adversarial = given.adversarial_training
    recipe = recipe_for(given.method, given.recipe, adversarial_training=adversarial, **changes)
    trained_on = 1 - train.validation_fraction(given, recipe)
    images = given.train_examples or trained_on * _EXAMPLES.get(given.dataset, 50000)
    step = _STEP.get(given.method, 1.0) + _ADVERSARIAL * adversarial
    step += _MOVED * bool(given.move_half)
    cost = recipe.epochs * step
    if not given.start_from:
        cost += (recipe.start_epochs or 0) * _STEP["unprotected"]
    return images / 64 * cost * _size(recipe.network)


def _attack(job: Job) -> float:
    """Seconds of all attack steps and predictions."""
    given = attack.parser().parse_args(job.arguments)
    cost = 0.0
    for case in attack.cases_of(given):
        crafted_on = given.surrogate if case.threat_model == "black_box" else given.target
        queries = getattr(case.attack, "num_queries", 0)
        based = ATTACKS.entries[case.attack.name].gradient_based
        steps = getattr(case.attack, "num_steps", 1) if based else 0
        one = steps * _GRADIENT + queries * _PREDICTION + len(given.target) * _PREDICTION
        cost += case.attack.restarts * len(crafted_on) * one
    return given.num_examples * cost * _size(job.name)


def _diversity(job: Job) -> float:
    """Seconds of all diversity measures."""
    from parl_tf.cli import diversity

    return diversity.parser().parse_args(job.arguments).num_examples * _DIVERSITY * _size(job.name)


def _size(name: str) -> float:
    """Relative cost of a network, by its name or the name of a job."""
    return _SMALL if "resnet8" in name or "/digits/" in name else 1.0
