"""parl-train: trains an ensemble into a run folder."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from parl_tf.cli.common import add_data_arguments, finite, positive_int, run
from parl_tf.cli.method_options import add_method_options, method_options
from parl_tf.cli.output import Parser
from parl_tf.data.augmentation import AUGMENTATIONS
from parl_tf.data.datasets import DATASETS
from parl_tf.defences import METHODS
from parl_tf.models import NETWORKS
from parl_tf.training.recipe import Recipe
from parl_tf.training.recipes import NAMES, recipe_for

_NOT_GIVEN = object()
_WITH_RESUME = ("resume", "data_dir", "json", "tensorboard")


def parser() -> argparse.ArgumentParser:
    """The arguments of parl-train."""
    tool = Parser(
        prog="parl-train",
        description="Trains an ensemble and saves it in a run folder: config.json, history.csv and "
        "model.keras.",
    )
    tool.add_argument("--method", help=", ".join(METHODS))
    tool.add_argument("--dataset", help=", ".join(DATASETS))
    tool.add_argument(
        "--out",
        metavar="RUN",
        help="run folder to create; the same command continues an interrupted run",
    )
    tool.add_argument(
        "--resume",
        metavar="RUN",
        help="continue an interrupted run as it was started; takes only --data-dir, --json and "
        "--tensorboard",
    )
    tool.add_argument("--members", type=positive_int, default=3, help="default: 3")
    tool.add_argument(
        "--start-from",
        metavar="RUN",
        help="run whose members' weights to start from; without it, dverge trains one first, and "
        "with --recipe fast so do trs and --adversarial-training",
    )
    tool.add_argument(
        "--devices",
        type=positive_int,
        default=1,
        metavar="N",
        help="train on the first N GPUs (without a GPU, N logical devices of the CPU), default: 1",
    )
    recipe = tool.add_argument_group("recipe")
    recipe.add_argument(
        "--recipe",
        default="authors",
        help=f"{', '.join(NAMES)}: each method as its authors train it (the default), or all "
        "methods by one recipe, as in PARL's paper or in a few epochs of all training examples",
    )
    recipe.add_argument("--epochs", type=positive_int)
    recipe.add_argument("--batch-size", type=positive_int)
    recipe.add_argument("--learning-rate", type=finite)
    recipe.add_argument("--network", help=", ".join(NETWORKS))
    recipe.add_argument(
        "--augmentation",
        metavar="NAME",
        help=f"shifts of training images: {', '.join(AUGMENTATIONS)}; crops of any number of "
        "pixels, such as black-crops-2",
    )
    add_method_options(tool)
    data = tool.add_argument_group("data")
    data.add_argument("--train-examples", type=positive_int, metavar="N", help="default: all")
    data.add_argument(
        "--validation-fraction",
        type=finite,
        metavar="X",
        help="fraction of the training examples kept for validation, default: the recipe's, or 0.1",
    )
    add_data_arguments(tool)
    tool.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write event files to RUN/tensorboard; needs the extra tensorboard",
    )
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs parl-train; returns its exit status."""
    tool = parser()
    arguments = tool.parse_args(argv)
    if arguments.resume is None:
        missing = [name for name in ("method", "dataset", "out") if not getattr(arguments, name)]
        if missing:
            tool.error(f"the following arguments are required: --{', --'.join(missing)}")
    else:
        others = [name for name in _given_in(argv) if name not in _WITH_RESUME]
        if others:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in others)
            tool.error(
                f"--resume cannot be combined with {flags}: it continues the run as it was started"
            )
    body = _train if arguments.resume is None else _resume
    return run(
        lambda: body(arguments),
        print_json=arguments.json,
        deterministic=arguments.deterministic,
    )


def _given_in(argv: Sequence[str] | None) -> list[str]:
    """Names of the arguments on the command line, even those equal to their defaults."""
    tool = parser()
    nothing = argparse.Namespace(**dict.fromkeys(vars(tool.parse_args([])), _NOT_GIVEN))
    given = vars(tool.parse_args(argv, nothing))
    return [name for name, value in given.items() if value is not _NOT_GIVEN]


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains; returns the run folder, its configuration and its history."""
    from parl_tf.data.datasets import load_dataset
    from parl_tf.runtime.devices import spread_over
    from parl_tf.training.fitting import train
    from parl_tf.training.folders import check_can_begin

    METHODS[arguments.method]  # raises for an unknown method
    options = method_options(arguments)
    recipe = recipe_for(
        arguments.method,
        arguments.recipe,
        adversarial_training=arguments.adversarial_training,
        **_given(arguments, "epochs", "batch_size", "learning_rate", "network", "augmentation"),
    )
    check_can_begin(arguments.out)
    with spread_over(arguments.devices):
        dataset = load_dataset(
            arguments.dataset,
            data_dir=arguments.data_dir,
            train_examples=arguments.train_examples,
            validation_fraction=validation_fraction(arguments, recipe),
            seed=arguments.seed,
        )
        train(
            arguments.method,
            dataset,
            arguments.out,
            recipe=recipe,
            num_members=arguments.members,
            seed=arguments.seed,
            start_from=arguments.start_from,
            arguments=options,
            callbacks=_callbacks(arguments, arguments.out),
            verbose=_verbosity(),
        )
    return _trained(arguments.out)


def validation_fraction(arguments: argparse.Namespace, recipe: Recipe) -> float:
    """The fraction of training examples kept for validation: as asked for, or the recipe's."""
    chosen = (arguments.validation_fraction, recipe.validation_fraction, 0.1)
    return next(fraction for fraction in chosen if fraction is not None)


def _resume(arguments: argparse.Namespace) -> dict[str, Any]:
    """Continues a run, and returns what `_train` does."""
    from parl_tf.training.resuming import resume

    resume(
        arguments.resume,
        data_dir=arguments.data_dir,
        callbacks=_callbacks(arguments, arguments.resume),
        verbose=_verbosity(),
    )
    return _trained(arguments.resume)


def _trained(folder: str) -> dict[str, Any]:
    """Prints that a run is trained; returns its folder, configuration and history."""
    from parl_tf.training.folders import read_config, read_history

    config = read_config(folder)
    print(f"Trained {config.method} on {config.dataset.name}: {folder}")
    return {"run": folder, "config": config.to_json(), "history": read_history(folder)}


def _callbacks(arguments: argparse.Namespace, folder: str) -> list[Any]:
    """The optional Keras callbacks that were requested."""
    if not arguments.tensorboard:
        return []
    from parl_tf.training.tensorboard import tensorboard_callback

    return [tensorboard_callback(folder)]


def _verbosity() -> str | int:
    """A progress bar on a terminal, a line per epoch elsewhere."""
    return "auto" if sys.stdout.isatty() else 2


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The named arguments that were given; the others keep the library's defaults."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


if __name__ == "__main__":
    sys.exit(main())
