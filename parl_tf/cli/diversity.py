"""parl-diversity: measures the diversity of an ensemble's members."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from parl_tf.cli.common import add_data_arguments, finite, positive_int, run
from parl_tf.cli.output import Parser
from parl_tf.data.datasets import DATASETS
from parl_tf.errors import ExistingRunError


def parser() -> argparse.ArgumentParser:
    """The arguments of parl-diversity."""
    tool = Parser(
        prog="parl-diversity",
        description="Measures the diversity of an ensemble's members on test images: CKA of their "
        "layers, cosines of their loss gradients, transfer between members by PGD, and agreement.",
    )
    tool.add_argument("--target", required=True, metavar="RUN_OR_KERAS_FILE", help="the ensemble")
    tool.add_argument("--out", required=True, metavar="FILE.json", help="file to write")
    tool.add_argument(
        "--dataset", help=f"{', '.join(DATASETS)}; default: the one it was trained on"
    )
    tool.add_argument(
        "--num-examples",
        type=positive_int,
        default=1000,
        metavar="N",
        help="test images, drawn with the seed; default: 1000, or all if there are fewer",
    )
    tool.add_argument("--tap", default="activation", help="activation (the default) or convolution")
    tool.add_argument("--epsilon", type=finite, default=0.03, metavar="E", help="default: 0.03")
    tool.add_argument("--num-steps", type=positive_int, default=20, metavar="N", help="default: 20")
    tool.add_argument("--batch-size", type=positive_int, default=125, help="default: 125")
    add_data_arguments(tool)
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs parl-diversity; returns its exit status."""
    arguments = parser().parse_args(argv)
    return run(
        lambda: _measure(arguments),
        print_json=arguments.json,
        deterministic=arguments.deterministic,
    )


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints a summary and writes the record."""
    import pathlib

    import numpy as np

    from parl_tf.attacks.iterative import PGD
    from parl_tf.cli.attack import check_data, dataset_name, last_part
    from parl_tf.cli.display import print_table
    from parl_tf.data.datasets import load_dataset
    from parl_tf.diversity.measuring import measure_diversity
    from parl_tf.results.diversity import save_diversity
    from parl_tf.results.files import check_can_write
    from parl_tf.training.folders import load_model

    if pathlib.Path(arguments.out).exists():
        raise ExistingRunError(f"{arguments.out} already exists. Expected a new file.")
    check_can_write(arguments.out)
    model, config = load_model(arguments.target)
    name = last_part(arguments.target)
    dataset = load_dataset(
        dataset_name(arguments.dataset, {name: config}),
        data_dir=arguments.data_dir,
        validation_fraction=0.0,
    )
    check_data(dataset, {name: config})
    record = measure_diversity(
        name,
        model,
        PGD(num_steps=arguments.num_steps, restarts=1),
        arguments.epsilon,
        dataset.test.sample(arguments.num_examples, seed=arguments.seed),
        tap=arguments.tap,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        config=config,
        data_description={
            "name": dataset.name,
            "dataset_fingerprint": dataset.fingerprint,
            "part": "test",
            "sample_seed": arguments.seed,
        },
    )
    save_diversity(record, arguments.out)
    rows = []
    for index, (first, second) in enumerate(record.pairs):
        cells = [
            np.nanmean(np.array(record.cka, float)[:, index]),
            np.nanmean(np.array(record.unbiased_cka, float)[:, index]),
            record.gradient_cosines[index],
            record.agreement_clean[first][second],
            record.agreement_adversarial[first][second],
        ]
        rows.append([f"{first + 1} and {second + 1}", *(f"{cell:.3f}" for cell in cells)])
    header = ["members", "CKA", "unbiased", "gradient cosine", "agree", "agree, attacked"]
    print_table(f"Diversity of {name} on {record.data['num_examples']} test images", header, rows)
    print(f"Record: {arguments.out}")
    return record.to_json()


if __name__ == "__main__":
    sys.exit(main())
