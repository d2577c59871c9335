"""Memory of an evaluation, by its number of images: seven strengths, ten restarts.

    python benchmarks/attack_memory.py 1000 10000

Each number of images is a process of its own: an ensemble of three members is attacked by PGD of
one step, black box from a surrogate, and the result records are written. Printed is the largest
resident memory beside that before the first attack, which holds TensorFlow and the images.

By default the members are small, so that 700,000 attacks take minutes. What the activations of a
batch need does not depend on the number of images; `--network resnet20` has it too.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time

EPSILONS = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07]


def measure(count: int, network: str, batch_size: int, restarts: int) -> None:
    """Attacks so many images and prints what it took."""
    import keras
    import numpy as np

    import parl_tf
    from parl_tf.data.examples import Split
    from parl_tf.models import NETWORKS

    def small(seed):
        keras.utils.set_random_seed(seed)
        layers = [keras.Input((32, 32, 3)), keras.layers.AveragePooling2D(4)]
        layers += [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
        return keras.Sequential([*layers, keras.layers.Dense(10)])

    def ensemble(seed):
        if network == "small":
            return parl_tf.Ensemble([small(seed + member) for member in range(3)])
        return parl_tf.Ensemble([NETWORKS[network](10, seed=seed + m) for m in range(3)])

    draw = np.random.default_rng(0)
    images = draw.random((count, 32, 32, 3), dtype=np.float32)
    data = Split(images, draw.integers(0, 10, count))
    before, started = resident(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        parl_tf.evaluate_robustness(
            {"target": ensemble(0)},
            [parl_tf.PGD(num_steps=1, restarts=restarts)],
            EPSILONS,
            data,
            surrogates={"surrogate": ensemble(10)},
            out=f"{folder}/results.json",
            batch_size=batch_size,
        )
    seconds = time.perf_counter() - started
    sys.stdout.write(
        f"{network}: {count} images: {resident():.0f} MiB at most, {before:.0f} MiB before, "
        f"{seconds:.0f} s\n"
    )


def resident() -> float:
    """The largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measures each number of images in a fresh process."""
    tool = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tool.add_argument("counts", type=int, nargs="+", metavar="IMAGES")
    tool.add_argument("--network", default="small")
    tool.add_argument("--batch-size", type=int, default=250)
    tool.add_argument("--restarts", type=int, default=10)
    arguments = tool.parse_args()
    fresh = multiprocessing.get_context("spawn")
    for count in arguments.counts:
        options = (count, arguments.network, arguments.batch_size, arguments.restarts)
        process = fresh.Process(target=measure, args=options)
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
