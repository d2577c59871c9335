"""Options of parl-train that are arguments of a training method."""

import argparse
from typing import Any

from parl_tf.cli.common import finite, positive_int
from parl_tf.errors import InputError

# Flag, keyword of the method's class, type and help, by the methods that have it.
OPTIONS: dict[tuple[str, ...], list[tuple]] = {
    ("adp",): [
        ("--entropy-weight", "entropy_weight", finite, "weight of the entropy"),
        ("--determinant-weight", "determinant_weight", finite, "weight of the log-determinant"),
    ],
    ("gal",): [
        ("--coherence-weight", "coherence_weight", finite, "weight of the coherence"),
    ],
    ("dverge",): [
        ("--distillation-epsilon", "epsilon", finite, "radius around an image, in [0, 1]"),
        ("--distillation-step-size", "step_size", finite, "size of a step, in [0, 1]"),
        ("--distillation-steps", "num_steps", positive_int, "number of steps"),
        ("--distillation-batch-norm", "distillation_batch_norm", str, "batch or moving statistics"),
        (
            "--distillation-moves-statistics",
            "distillation_moves_statistics",
            bool,
            "update the moving statistics in distillation, as in the authors' code",
        ),
    ],
    ("trs",): [
        ("--cosine-weight", "cosine_weight", finite, "weight of the cosine"),
        ("--smoothness-weight", "smoothness_weight", finite, "weight of the smoothness"),
        ("--smoothness-scale", "smoothness_scale", str, "batch (the authors') or example"),
        ("--move-half", "move_half", bool, "measure smoothness with half of the images moved"),
        ("--first-radius", "first_radius", finite, "radius in the first epoch, in [0, 1]"),
        ("--last-radius", "last_radius", finite, "radius that it grows towards"),
        ("--smoothness-steps", "num_steps", positive_int, "steps to the moved images"),
    ],
    ("guardian", "parl"): [
        ("--num-layers", "num_layers", positive_int, "layers compared"),
        ("--diversity-weight", "diversity_weight", finite, "weight of the penalty"),
        ("--tap", "tap", str, "what is compared: activation or convolution"),
    ],
    ("guardian",): [
        ("--stem-tap", "stem_tap", str, "like --tap, for the first layer"),
        ("--norms", "norms", str, "norms of kernel gradients: constant or differentiated"),
        ("--correlation", "correlation", str, "correlation of outputs: biased or pearson"),
    ],
    ("parl",): [
        ("--penalty-batch-norm", "penalty_batch_norm", str, "moving or batch statistics"),
        ("--layer-reduction", "layer_reduction", str, "over layers: sum or mean"),
        ("--cosine", "cosine", str, "signed, absolute or positive"),
    ],
}
ADVERSARIAL = [
    ("--adversarial-epsilon", "epsilon", finite, "radius, in [0, 1], default: 8/255"),
    ("--adversarial-step-size", "step_size", finite, "size of a step, default: 2/255"),
    ("--adversarial-steps", "num_steps", positive_int, "number of steps, default: 10"),
    ("--adversarial-against", "against", str, "attacked: members (the default) or ensemble"),
]


def add_method_options(tool: argparse.ArgumentParser) -> None:
    """Adds the options of adversarial training and of every method."""
    adversarial = tool.add_argument_group("adversarial training, with any method")
    adversarial.add_argument(
        "--adversarial-training",
        action="store_true",
        help="compute the cross-entropy on PGD examples instead of clean images",
    )
    _add(adversarial, ADVERSARIAL)
    for methods, options in OPTIONS.items():
        _add(tool.add_argument_group(f"options of {' and '.join(methods)}"), options)


def _add(group: argparse._ArgumentGroup, options: list[tuple]) -> None:
    """Adds options, whose defaults are the library's."""
    for flag, _, kind, text in options:
        if kind is bool:  # None if not given, as for the others
            group.add_argument(flag, action="store_true", default=None, help=text)
            continue
        metavar = {positive_int: "N", finite: "X", str: "NAME"}[kind]
        group.add_argument(flag, type=kind, metavar=metavar, help=text)


def method_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for the method's class; raises for those of another method."""
    keywords: dict[str, Any] = {}
    for methods, options in OPTIONS.items():
        given = _keywords(arguments, options)
        if given and arguments.method not in methods:
            flags = ", ".join(flag for flag, keyword, *_ in options if keyword in given)
            owners = " and ".join(methods)
            raise InputError(
                f"{flags} applies only to {owners}. Received: --method {arguments.method}."
            )
        keywords.update(given)
    adversarial = _keywords(arguments, ADVERSARIAL)
    if arguments.adversarial_training:
        keywords["adversarial_training"] = adversarial
    elif adversarial:
        flags = ", ".join(flag for flag, keyword, *_ in ADVERSARIAL if keyword in adversarial)
        raise InputError(f"{flags} applies only with --adversarial-training.")
    return keywords


def _keywords(arguments: argparse.Namespace, options: list[tuple]) -> dict[str, Any]:
    """The options that were given, by keyword."""
    values = {
        keyword: getattr(arguments, flag.removeprefix("--").replace("-", "_"))
        for flag, keyword, *_ in options
    }
    return {keyword: value for keyword, value in values.items() if value is not None}
