"""parl-attack: evaluates models on clean images and under attack."""

import argparse
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from parl_tf.attacks import ATTACKS, PAPER_ATTACKS
from parl_tf.cli.common import add_data_arguments, finite, positive_int, run
from parl_tf.cli.output import Parser
from parl_tf.data.datasets import DATASETS
from parl_tf.errors import InputError
from parl_tf.protocols import EPSILONS, PROTOCOLS
from parl_tf.training.config import RunConfig

# Hyperparameters that can be set for every attack that has them.
_HYPERPARAMETERS: dict[str, tuple[Any, str]] = {
    "num_steps": (positive_int, "steps of iterative attacks"),
    "step_size": (finite, "step size of iterative attacks, in pixel units; default: E / 5"),
    "restarts": (positive_int, "runs of randomised attacks"),
    "decay_factor": (finite, "decay factor of attacks with momentum"),
    "loss": (str, "loss that gradient attacks maximise: cross_entropy or margin"),
    "fusion": (str, "how members are fused: probabilities, logits or losses"),
}


def parser() -> argparse.ArgumentParser:
    """The arguments of parl-attack."""
    tool = Parser(
        prog="parl-attack",
        description="Evaluates models on clean test images and under attack. With surrogates, "
        "adversarial examples are crafted on them (black box); without, on each target itself "
        "(white box). With --out, an interrupted evaluation continues where it stopped.",
    )
    tool.add_argument(
        "--target",
        action="append",
        required=True,
        metavar="RUN_OR_KERAS_FILE",
        help="model to attack; may be repeated",
    )
    tool.add_argument(
        "--surrogate",
        action="append",
        default=[],
        metavar="RUN_OR_KERAS_FILE",
        help="model to craft examples on; may be repeated",
    )
    tool.add_argument(
        "--protocol",
        metavar="NAME",
        help=f"{', '.join(PROTOCOLS)}: named attacks, strengths and surrogates",
    )
    tool.add_argument(
        "--dataset", help=f"{', '.join(DATASETS)}; default: the one the targets were trained on"
    )
    tool.add_argument(
        "--attack",
        nargs="+",
        metavar="NAME",
        help=f"{', '.join(ATTACKS)}; default: {' '.join(PAPER_ATTACKS)}, or the protocol's",
    )
    tool.add_argument(
        "--epsilon",
        nargs="+",
        type=finite,
        metavar="E",
        help="radii of the L-infinity ball for pixels in [0, 1], such as 0.03 or 8/255; "
        f"default: {' '.join(map(str, EPSILONS))}, or the protocol's",
    )
    tool.add_argument(
        "--num-examples",
        type=positive_int,
        default=1000,
        metavar="N",
        help="test images, drawn with the seed; default: 1000, or all if there are fewer",
    )
    for name, (kind, text) in _HYPERPARAMETERS.items():
        metavar = {positive_int: "N", finite: "X", str: "NAME"}[kind]
        flag = f"--{name.replace('_', '-')}"
        tool.add_argument(flag, type=kind, metavar=metavar, help=text)
    tool.add_argument("--batch-size", type=positive_int, default=250, help="default: 250")
    tool.add_argument(
        "--out", metavar="FILE.json", help="results file, updated during the evaluation"
    )
    tool.add_argument(
        "--save-examples", metavar="DIR", help="save the adversarial examples there, as float32"
    )
    tool.add_argument(
        "--examples", metavar="DIR", help="evaluate on examples that --save-examples saved there"
    )
    add_data_arguments(tool)
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs parl-attack; returns its exit status."""
    arguments = parser().parse_args(argv)
    return run(
        lambda: _attack(arguments),
        print_json=arguments.json,
        deterministic=arguments.deterministic,
    )


def _attack(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluates, prints the table, and returns the records."""
    from parl_tf.cli.display import evaluation_progress, print_checks, print_table, threats
    from parl_tf.data.datasets import load_dataset
    from parl_tf.evaluation.robustness import evaluate_cases
    from parl_tf.evaluation.saved_examples import evaluate_examples
    from parl_tf.report import accuracy_table
    from parl_tf.results.files import check_can_write, to_document
    from parl_tf.training.folders import load_model

    if arguments.examples:
        _check_nothing_crafted(arguments)
    cases = [] if arguments.examples else cases_of(arguments)
    if arguments.out:
        check_can_write(arguments.out)
    names = _names(arguments.target, arguments.surrogate)
    loaded = {name: load_model(path) for name, path in names.items()}
    configs = {name: config for name, (_, config) in loaded.items()}
    models = {name: model for name, (model, _) in loaded.items()}
    targets, surrogates = (
        {name: models[name] for name, path in names.items() if path in paths}
        for paths in (arguments.target, arguments.surrogate)
    )
    if arguments.protocol and not arguments.examples:
        PROTOCOLS[arguments.protocol].check_surrogates({name: configs[name] for name in surrogates})
    dataset = load_dataset(
        dataset_name(arguments.dataset, {name: configs[name] for name in targets}),
        data_dir=arguments.data_dir,
        validation_fraction=0.0,
    )
    check_data(dataset, configs)
    _warn_of_shared_seeds(configs, targets, surrogates)
    num_examples, sample_seed = _sampling(arguments)
    sample = dataset.test.sample(num_examples, seed=sample_seed)
    if arguments.examples:
        records = evaluate_examples(
            targets, arguments.examples, sample, configs=configs, out=arguments.out
        )
    else:
        with evaluation_progress() as on_progress:
            records = evaluate_cases(
                targets,
                cases,
                sample,
                surrogates=surrogates,
                protocol=arguments.protocol or "custom",
                seed=arguments.seed,
                batch_size=arguments.batch_size,
                out=arguments.out,
                examples_out=arguments.save_examples,
                data_description={
                    "name": dataset.name,
                    "dataset_fingerprint": dataset.fingerprint,
                    "part": "test",
                    "sample_seed": sample_seed,
                },
                configs=configs,
                on_progress=on_progress,
            )
    print_table(
        f"Vote accuracy (%){threats(records)} on {len(sample)} test images of {dataset.name}",
        *accuracy_table(records),
    )
    if arguments.protocol == "diagnostics":
        print_checks(records)
    if arguments.out:
        print(f"Records: {arguments.out}")
    return to_document(records, {}, finished=True)


def _check_nothing_crafted(arguments: argparse.Namespace) -> None:
    """Raises InputError if --examples is combined with options for crafting examples."""
    names = ("surrogate", "protocol", "attack", "epsilon", "save_examples", *_HYPERPARAMETERS)
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]
    if given:
        raise InputError(
            "Expected --examples without options for crafting examples. "
            f"Received: {', '.join(given)}."
        )


def _sampling(arguments: argparse.Namespace) -> tuple[int, int]:
    """The number of test images to draw and the seed: as given, or as for the saved examples."""
    from parl_tf.evaluation.examples import read_examples

    if not arguments.examples:
        return arguments.num_examples, arguments.seed
    data = read_examples(arguments.examples)[0]["data"]
    if not {"num_examples", "sample_seed"} <= set(data):
        raise InputError(
            f"{arguments.examples} does not record which test images its examples were crafted "
            "from. Pass these images to parl_tf.evaluate_examples."
        )
    return data["num_examples"], data["sample_seed"]


def cases_of(arguments: argparse.Namespace) -> list[Any]:
    """The cases to run: a protocol's, or the given attacks at the given strengths."""
    from parl_tf.evaluation.cases import Case
    from parl_tf.protocols.base import make_attack

    given = {name: getattr(arguments, name) for name in _HYPERPARAMETERS}
    if arguments.protocol:
        changed = [name for name, value in given.items() if value is not None]
        changed += [name for name in ("epsilon", "attack") if getattr(arguments, name)]
        if changed:
            print(
                f"warning: with other values of {', '.join(changed)}, this is not the whole "
                f"protocol {arguments.protocol}; the records say what was run",
                file=sys.stderr,
            )
        protocol = PROTOCOLS[arguments.protocol]
        return protocol.cases(epsilons=arguments.epsilon, attacks=arguments.attack, **given)
    threat_model = "black_box" if arguments.surrogate else "white_box"
    cases = []
    for name in dict.fromkeys(arguments.attack or PAPER_ATTACKS):
        attack = make_attack(name, {}, **given)
        for epsilon in sorted(set(arguments.epsilon or EPSILONS)):
            attack.check_epsilon(epsilon)
            cases.append(Case(threat_model, attack, epsilon))
    return cases


def _names(targets: Sequence[str], surrogates: Sequence[str]) -> dict[str, str]:
    """A name for each model: the last part of its path if that is unique, else the path."""
    places = [{pathlib.Path(path).resolve() for path in paths} for paths in (targets, surrogates)]
    if both := [str(path) for path in places[0] & places[1]]:
        raise InputError(f"Expected surrogates that are not targets. Received: {sorted(both)}.")
    paths = list(dict.fromkeys([*targets, *surrogates]))
    short = [last_part(path) for path in paths]
    return {
        (name if short.count(name) == 1 else path): path
        for name, path in zip(short, paths, strict=True)
    }


def last_part(path: str) -> str:
    """Name of a run folder or Keras file."""
    return pathlib.Path(path).resolve().name.removesuffix(".keras")


def dataset_name(given: str | None, configs: Mapping[str, RunConfig | None]) -> str:
    """The data set to attack on: the given one, or the one that all targets were trained on."""
    if given:
        return given
    bare = [name for name, config in configs.items() if config is None]
    if bare:
        raise InputError(
            f"Expected --dataset, one of {', '.join(DATASETS)}, as a bare Keras file does not "
            f"record what it was trained on. Received: {', '.join(bare)}."
        )
    trained_on = {name: config.dataset.name for name, config in configs.items() if config}
    if len(set(trained_on.values())) > 1:
        raise InputError(
            f"Expected targets trained on one data set, or --dataset. Received: {trained_on}."
        )
    return next(iter(trained_on.values()))


def check_data(dataset: Any, configs: Mapping[str, RunConfig | None]) -> None:
    """Raises for runs of another data set; warns of runs trained on another copy of this one."""
    for name, config in configs.items():
        if config is None:
            continue
        known = config.dataset
        if known.name != dataset.name:
            raise InputError(
                f"Expected runs trained on {dataset.name}. Received: {name}, on {known.name}."
            )
        if known.fingerprint != dataset.fingerprint:
            print(
                f"warning: {name} was trained on another copy of {dataset.name} "
                f"(fingerprint {known.fingerprint}, here {dataset.fingerprint})",
                file=sys.stderr,
            )


def _warn_of_shared_seeds(
    configs: Mapping[str, RunConfig | None], targets: Iterable[str], surrogates: Iterable[str]
) -> None:
    """Warns if a surrogate and a target started from the same weights, unlike an attacker's."""
    for surrogate in surrogates:
        for name in targets:
            first, second = configs[surrogate], configs[name]
            if first and second and first.seed == second.seed:
                print(
                    f"warning: {surrogate} and {name} were trained with seed {first.seed}, which a "
                    "black-box attacker does not know. Train surrogates with another --seed.",
                    file=sys.stderr,
                )


if __name__ == "__main__":
    sys.exit(main())
