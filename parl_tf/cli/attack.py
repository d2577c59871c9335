"""parl-attack: measures models on clean images and under attack."""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from parl_tf.attacks import ATTACKS
from parl_tf.cli.common import add_data_arguments, finite, positive_int, run
from parl_tf.data import DATASETS
from parl_tf.errors import InputError

EPSILONS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07)


def parser() -> argparse.ArgumentParser:
    """The arguments of parl-attack."""
    tool = argparse.ArgumentParser(
        prog="parl-attack",
        description="Measures models on clean test images and under attack. With a surrogate, "
        "adversarial examples are crafted on it (black box); without one, on each target itself "
        "(white box).",
    )
    tool.add_argument(
        "--target",
        action="append",
        required=True,
        metavar="RUN_OR_KERAS_FILE",
        help="model to attack; may be repeated",
    )
    tool.add_argument("--surrogate", metavar="RUN_OR_KERAS_FILE", help="model to craft examples on")
    tool.add_argument(
        "--dataset", help=f"{', '.join(DATASETS)}; default: what the targets were trained on"
    )
    tool.add_argument(
        "--attack",
        nargs="+",
        default=list(ATTACKS),
        metavar="NAME",
        help=f"default: {' '.join(ATTACKS)}",
    )
    tool.add_argument(
        "--epsilon",
        nargs="+",
        type=finite,
        default=list(EPSILONS),
        metavar="E",
        help="radii of the L-infinity ball for pixels in [0, 1]; "
        f"default: {' '.join(map(str, EPSILONS))}",
    )
    tool.add_argument(
        "--num-examples",
        type=positive_int,
        default=1000,
        metavar="N",
        help="test images, drawn by the seed; default: 1000, or all if there are fewer",
    )
    tool.add_argument(
        "--num-steps", type=positive_int, default=50, help="of iterative attacks; default: 50"
    )
    tool.add_argument(
        "--step-size", type=finite, help="of iterative attacks, in pixel units; default: E / 5"
    )
    tool.add_argument(
        "--decay-factor", type=finite, default=0.01, help="of MIM; default: 0.01, PARL's own"
    )
    tool.add_argument(
        "--restarts", type=positive_int, default=10, help="random starts of PGD; default: 10"
    )
    tool.add_argument("--batch-size", type=positive_int, default=250, help="default: 250")
    tool.add_argument("--out", metavar="FILE.json", help="write the result records there")
    add_data_arguments(tool)
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs parl-attack; returns its exit status."""
    arguments = parser().parse_args(argv)
    return run(lambda: _attack(arguments), print_json=arguments.json)


def _attack(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluates as told, prints the table, and returns the records."""
    from parl_tf.cli.display import evaluation_progress, print_table
    from parl_tf.data import load_dataset
    from parl_tf.evaluation import evaluate_robustness
    from parl_tf.records import check_can_save, save_records, to_document
    from parl_tf.report import accuracy_table
    from parl_tf.runs import load_model

    attacks = [_make_attack(name, arguments) for name in dict.fromkeys(arguments.attack)]
    epsilons = sorted(set(arguments.epsilon))
    for attack in attacks:
        for epsilon in epsilons:
            attack.check_epsilon(epsilon)
    if arguments.out:
        check_can_save(arguments.out)
    names = _target_names(arguments.target)
    loaded = {name: load_model(path) for name, path in names.items()}
    surrogate, crafted_on = None, None
    if arguments.surrogate:
        surrogate, crafted_on = load_model(arguments.surrogate)
    dataset = load_dataset(
        _dataset_name(arguments.dataset, loaded),
        data_dir=arguments.data_dir,
        validation_fraction=0.0,
    )
    configs = {name: config for name, (_, config) in loaded.items()}
    _check_data(dataset, {**configs, "the surrogate": crafted_on})
    if crafted_on:
        _warn_of_kinship(crafted_on, configs)
    sample = dataset.test.sample(arguments.num_examples, seed=arguments.seed)
    with evaluation_progress() as on_progress:
        records = evaluate_robustness(
            {name: model for name, (model, _) in loaded.items()},
            attacks,
            epsilons,
            sample,
            surrogate=surrogate,
            surrogate_name=_last_part(arguments.surrogate) if arguments.surrogate else "",
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            data_description={
                "name": dataset.name,
                "fingerprint": dataset.fingerprint,
                "part": "test",
                "sample_seed": arguments.seed,
            },
            on_progress=on_progress,
        )
    threat = "white box" if surrogate is None else f"black box from {arguments.surrogate}"
    print_table(
        f"Vote accuracy (%) on {len(sample)} test images of {dataset.name}, {threat}",
        *accuracy_table(records),
    )
    if arguments.out:
        document = save_records(records, arguments.out)
        print(f"Records: {arguments.out}")
        return document
    return to_document(records)


def _make_attack(name: str, arguments: argparse.Namespace):
    """An attack with those of the given hyperparameters that it has."""
    attack = ATTACKS[name]
    has = {field.name for field in dataclasses.fields(attack) if field.init}
    given = {
        key: getattr(arguments, key)
        for key in ("num_steps", "step_size", "restarts", "decay_factor")
    }
    return attack(**{key: value for key, value in given.items() if key in has})


def _target_names(paths: Sequence[str]) -> dict[str, str]:
    """A name for each target: the last part of its path where that tells them apart."""
    paths = list(dict.fromkeys(paths))
    short = [_last_part(path) for path in paths]
    return {
        (name if short.count(name) == 1 else path): path
        for name, path in zip(short, paths, strict=True)
    }


def _last_part(path: str) -> str:
    """Name of a run folder or Keras file."""
    return pathlib.Path(path).resolve().name.removesuffix(".keras")


def _dataset_name(given: str | None, loaded: dict) -> str:
    """The data set to attack on: the given one, or what all targets were trained on."""
    if given:
        return given
    bare = [name for name, (_, config) in loaded.items() if config is None]
    if bare:
        raise InputError(
            f"{', '.join(bare)} is a bare Keras file, which does not say what it was trained on. "
            f"Expected --dataset, one of {', '.join(DATASETS)}."
        )
    trained_on = {name: config["dataset"]["name"] for name, (_, config) in loaded.items()}
    if len(set(trained_on.values())) > 1:
        raise InputError(
            f"Expected targets trained on one data set, or --dataset. Received: {trained_on}."
        )
    return next(iter(trained_on.values()))


def _check_data(dataset: Any, configs: dict[str, dict[str, Any] | None]) -> None:
    """Refuses a run of another data set, and says so if it saw another copy of this one."""
    for name, config in configs.items():
        if config is None:
            continue
        known = config["dataset"]
        if known["name"] != dataset.name:
            raise InputError(
                f"Expected runs trained on {dataset.name}. Received: {name} of {known['name']}."
            )
        if known.get("fingerprint") != dataset.fingerprint:
            print(
                f"warning: {name} was trained on another copy of {dataset.name} "
                f"(fingerprint {known.get('fingerprint')}, here {dataset.fingerprint})",
                file=sys.stderr,
            )


def _warn_of_kinship(surrogate: dict[str, Any], configs: dict[str, dict[str, Any] | None]) -> None:
    """Says so if the surrogate began from the same weights as a target: it should be a stranger."""
    for name, config in configs.items():
        if config and config.get("seed") == surrogate.get("seed"):
            print(
                f"warning: the surrogate and {name} were trained from seed {config.get('seed')}; "
                "a black-box attacker does not know it. Train the surrogate with another --seed.",
                file=sys.stderr,
            )


if __name__ == "__main__":
    sys.exit(main())
