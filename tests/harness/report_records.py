"""A small grid of results, drawn by a seed, for tests of reports.

`tests/data/report/` holds the expected text of its report. After an intended change, update it with
`PYTHONPATH=.:tests python -m harness.report_records tests/data/report` and review the difference.
"""

import pathlib
import sys

import numpy as np

from harness.run_configs import run_config
from parl_tf.files import write_json
from parl_tf.results.diversity import DiversityRecord, save_diversity
from parl_tf.results.files import to_document
from parl_tf.results.records import ModelCard, Record

EPSILONS = (0.01, 0.03, 0.07)
NUM_EXAMPLES = 40
SEEDS = (0, 1)
VERSIONS = {"parl_tf": "0.1.0", "keras": "3.12.0"}
# Fraction of images that survive: clean, and lost to transfer per unit of epsilon.
SETTINGS = {
    "cifar10": {
        "unprotected": (0.95, 8),
        "adp": (0.92, 8),
        "parl7": (0.9, 5),
        "parl5": (0.9, 6),
        "parl3": (0.93, 7),
        "guardian7": (0.9, 6),
        "parl7-at": (0.8, 3),
    },
    "cifar100": {"unprotected": (0.7, 8), "parl7": (0.65, 5)},
}
STRENGTH = {"fgsm": 0.6, "bim": 1.0, "mim": 1.0, "pgd": 1.1, "mi-fgsm": 1.2}


def config(setting, seed, dataset="cifar10", arguments=None, recipe=None, **changes):
    """Configuration of a run."""
    method = setting.split("-")[0].rstrip("0123456789")
    given = {}
    if method in ("parl", "guardian"):
        given["num_layers"] = int(setting.split("-")[0][len(method) :])
    if setting.endswith("-at"):
        given["adversarial_training"] = {"epsilon": 8 / 255}
    return run_config(
        method,
        seed,
        arguments={**given, **(arguments or {})},
        recipe={"epochs": 2, "batch_size": 64, **(recipe or {})},
        dataset={"name": dataset},
        **{"versions": VERSIONS, **changes},
    )


def card(setting, seed, dataset="cifar10", **changes):
    """The model card of a target."""
    return ModelCard(
        name=f"{setting}-seed{seed}",
        fingerprint=f"{dataset}-{setting}-{seed}",
        config=config(setting, seed, dataset, **changes),
    )


def surrogate(number, dataset="cifar10"):
    """The model card of a surrogate."""
    return ModelCard(
        name=f"surrogate-{number}",
        fingerprint=f"{dataset}-surrogate-{number}",
        config=config("unprotected", 1000 + number, dataset),
    )


def record(target=None, **changes):
    """A record; clean unless an attack is named."""
    values = {
        "target": target or card("parl7", 0),
        "threat_model": "clean",
        "surrogate": None,
        "protocol": "unlike-surrogates",
        "attack": "clean",
        "hyperparameters": {},
        "epsilon": 0.0,
        "correct": [[1] * NUM_EXAMPLES],
        "seed": 0,
        "batch_size": 250,
        "seconds": 1.5,
        "data": {
            "name": "cifar10",
            "dataset_fingerprint": "da7a",
            "fingerprint": "cifar10-images",
            "num_examples": NUM_EXAMPLES,
        },
        "versions": VERSIONS,
    }
    values |= changes
    parts = [0.0] * len(values["correct"])
    for name in ("mean_right", "tied", "unmoved"):
        values.setdefault(name, parts)
    return Record(**values)


def hyperparameters(attack, **changes):
    """Hyperparameters of an attack, as the package records them."""
    values = {"loss": "cross_entropy", "fusion": "probabilities"}
    if attack != "fgsm":
        values |= {"num_steps": 50, "step_size": None}
    if attack == "pgd":
        values["restarts"] = 2
    if attack in ("mim", "mi-fgsm"):
        values["decay_factor"] = 0.01 if attack == "mim" else 1.0
    return {**values, **changes}


def masks(generator, part, count):
    """For each restart, which images survive."""
    drawn = generator.random((count, NUM_EXAMPLES)) < max(part, 0.0)
    return drawn.astype(int).tolist()


def data_of(dataset):
    """The description of a data set's images."""
    return {
        "name": dataset,
        "dataset_fingerprint": "da7a",
        "fingerprint": f"{dataset}-images",
        "num_examples": NUM_EXAMPLES,
    }


def robustness(dataset):
    """Records of all settings, seeds and protocols of a data set, by file name."""
    generator = np.random.default_rng(len(dataset))
    files = {"black-box": [], "white-box": [], "diagnostics": []}
    for setting, (clean, slope) in SETTINGS[dataset].items():
        for seed in SEEDS if setting != "guardian7" else SEEDS[:1]:
            target = card(setting, seed, dataset)
            common = {"target": target, "data": data_of(dataset)}
            right = masks(generator, clean, 1)
            for file, protocol in (
                ("black-box", "unlike-surrogates"),
                ("white-box", "white-box"),
                ("diagnostics", "diagnostics"),
            ):
                if file == "black-box" or (file == "white-box" or seed == 0):
                    files[file].append(record(**common, protocol=protocol, correct=right))
            for number, attack, epsilon in np.array(
                np.meshgrid([0, 1], list(STRENGTH), EPSILONS), object
            ).T.reshape(-1, 3):
                if setting == "parl3" and attack == "mi-fgsm":
                    continue  # one attack that was not run
                part = clean - slope * STRENGTH[attack] * float(epsilon) * (1 + 0.2 * int(number))
                files["black-box"].append(
                    record(
                        **common,
                        threat_model="black_box",
                        surrogate=surrogate(number, dataset),
                        attack=attack,
                        hyperparameters=hyperparameters(attack),
                        epsilon=float(epsilon),
                        correct=masks(generator, part, 2 if attack == "pgd" else 1),
                    )
                )
            files["white-box"] += white_box(generator, common, clean, "white-box")
            if seed == 0:
                files["diagnostics"] += white_box(generator, common, clean, "diagnostics")
    return files


def white_box(generator, common, clean, protocol):
    """White-box records of one target."""
    kinds = [("fgsm", {}), ("bim", {}), ("pgd", {})]
    if protocol == "white-box":
        kinds.append(("pgd", {"loss": "margin", "fusion": "logits"}))
    return [
        record(
            **common,
            protocol=protocol,
            threat_model="white_box",
            attack=attack,
            hyperparameters=hyperparameters(attack, **changes),
            epsilon=epsilon,
            correct=masks(
                generator, clean - 20 * STRENGTH[attack] * epsilon, 2 if attack == "pgd" else 1
            ),
        )
        for attack, changes in kinds
        for epsilon in EPSILONS
    ]


def diversity(dataset, setting, seed):
    """A record of diversity."""
    generator = np.random.default_rng([len(dataset), len(setting), seed])
    layers, pairs = 9, [[0, 1], [0, 2], [1, 2]]
    alike = 0.9 if setting == "unprotected" else 0.6
    cka = alike + generator.normal(0, 0.03, (layers, 3)) - np.linspace(0, 0.3, layers)[:, None]
    image = np.random.default_rng(0).random((8, 8, 3)).round(3)
    shared = generator.normal(size=(8, 8, 3))
    own = generator.normal(size=(3, 8, 8, 3))
    unbiased = (cka - 0.15).round(4).tolist()
    unbiased[3][1] = None
    square = generator.random((3, 3)).round(3).tolist()
    return DiversityRecord(
        target=card(setting, seed, dataset),
        data={**data_of(dataset), "num_examples": 100},
        tap="activation",
        pairs=pairs,
        cka=cka.round(4).tolist(),
        unbiased_cka=unbiased,
        gradient_cosines=[0.3, 0.2, 0.25] if setting == "unprotected" else [0.05, 0.1, 0.0],
        attack={"name": "pgd", "num_steps": 20, "restarts": 1, "epsilon": 0.03},
        transfer=[[0.9, 0.5, None], *square[1:]],
        agreement_clean=square,
        agreement_adversarial=square,
        example={
            "image": image.tolist(),
            "label": 3,
            "gradients": (alike**3 * shared + (1 - alike**3) * own).round(4).tolist(),
        },
        seed=0,
        seconds=12.25,
        versions=VERSIONS,
    )


def write_records(records, path, *, finished=True):
    """Writes a results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, to_document(records, {}, finished), indent=None)
    return path


def write_grid(folder):
    """Writes all results files and the configuration of a run; returns the folder."""
    for dataset in SETTINGS:
        for name, records in robustness(dataset).items():
            write_records(records, folder / dataset / f"{name}.json")
    for setting, seeds in {"unprotected": SEEDS, "parl7": SEEDS, "parl3": (0,)}.items():
        for seed in seeds:
            path = folder / "cifar10" / f"diversity-{setting}-seed{seed}.json"
            save_diversity(diversity("cifar10", setting, seed), path)
    (folder / "run").mkdir(exist_ok=True)
    write_json(folder / "run" / "config.json", config("parl7", 0).to_json())
    return folder


if __name__ == "__main__":
    import tempfile

    from parl_tf.report import write_report

    stored = pathlib.Path(sys.argv[1])
    stored.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        write_report([write_grid(pathlib.Path(work, "results"))], pathlib.Path(work, "report"))
        for path in pathlib.Path(work, "report").iterdir():
            if path.suffix in (".md", ".csv", ".tex"):
                (stored / path.name).write_bytes(path.read_bytes())
