"""parl-train: trains an ensemble into a run folder."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from parl_tf.cli.common import add_data_arguments, finite, positive_int, run
from parl_tf.data import DATASETS
from parl_tf.defences import METHODS


def parser() -> argparse.ArgumentParser:
    """The arguments of parl-train."""
    tool = argparse.ArgumentParser(
        prog="parl-train",
        description="Trains an ensemble of ResNet20s and leaves it in a run folder: config.json, "
        "history.csv and model.keras.",
    )
    tool.add_argument("--method", required=True, help=", ".join(METHODS))
    tool.add_argument("--dataset", required=True, help=", ".join(DATASETS))
    tool.add_argument("--out", required=True, metavar="RUN", help="run folder to make")
    tool.add_argument("--members", type=positive_int, default=3, help="default: 3")
    recipe = tool.add_argument_group("recipe (Adam under a cosine decay)")
    recipe.add_argument("--epochs", type=positive_int)
    recipe.add_argument("--batch-size", type=positive_int)
    recipe.add_argument("--learning-rate", type=finite)
    parl = tool.add_argument_group("parl")
    parl.add_argument("--num-layers", type=positive_int, metavar="K", help="layers compared")
    parl.add_argument("--diversity-weight", type=finite, help="weight of the penalty")
    data = tool.add_argument_group("data")
    data.add_argument("--train-examples", type=positive_int, metavar="N", help="default: all")
    data.add_argument(
        "--validation-fraction",
        type=finite,
        default=0.1,
        help="part of the training examples kept for validation, default: 0.1",
    )
    add_data_arguments(tool)
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs parl-train; returns its exit status."""
    arguments = parser().parse_args(argv)
    return run(lambda: _train(arguments), print_json=arguments.json)


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains as told, and returns the last epoch's history beside the configuration."""
    from parl_tf.data import load_dataset
    from parl_tf.errors import InputError
    from parl_tf.runs import check_can_begin, read_config, read_history
    from parl_tf.training import Recipe, train

    options = _given(arguments, "num_layers", "diversity_weight")
    METHODS[arguments.method]  # an unknown one ends here
    if options and arguments.method != "parl":
        flags = ", ".join("--" + key.replace("_", "-") for key in options)
        raise InputError(f"{flags}: options of parl, not of {arguments.method}.")
    recipe = Recipe(**_given(arguments, "epochs", "batch_size", "learning_rate"))
    check_can_begin(arguments.out)
    dataset = load_dataset(
        arguments.dataset,
        data_dir=arguments.data_dir,
        train_examples=arguments.train_examples,
        validation_fraction=arguments.validation_fraction,
        seed=arguments.seed,
    )
    train(
        arguments.method,
        dataset,
        arguments.out,
        recipe=recipe,
        num_members=arguments.members,
        seed=arguments.seed,
        arguments=options,
        verbose="auto" if sys.stdout.isatty() else 2,
    )
    print(f"Trained {arguments.method} on {dataset.name}: {arguments.out}")
    return {
        "run": arguments.out,
        "config": read_config(arguments.out),
        "history": read_history(arguments.out),
    }


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the named arguments that were given; the others keep the library's defaults."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


if __name__ == "__main__":
    sys.exit(main())
