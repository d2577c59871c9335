"""What attacks on one model after another leave behind.

    python benchmarks/attack_leaks.py 200

Each model is an ensemble of two small members, attacked by FGSM, PGD and M-DI2-FGSM at two
strengths and forgotten. Printed are the memory of the process, Python's objects and the graphs
among them.
"""

import argparse
import gc
import sys

EVERY = 20  # models


def main() -> None:
    """Attacks so many models and prints what is there meanwhile."""
    tool = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tool.add_argument("models", type=int)
    number = tool.parse_args().models

    import keras
    import numpy as np
    import tensorflow as tf

    import parl_tf
    from parl_tf.data.examples import Split

    def network(seed):
        keras.utils.set_random_seed(seed)
        layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="relu")]
        return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(4)])

    draw = np.random.default_rng(0)
    data = Split(draw.random((8, 8, 8, 3), dtype=np.float32), draw.integers(0, 4, 8))
    attacks = [parl_tf.FGSM(), parl_tf.PGD(num_steps=2, restarts=2), parl_tf.MDI2FGSM(num_steps=2)]
    for seed in range(number):
        ensemble = parl_tf.Ensemble([network(2 * seed), network(2 * seed + 1)])
        parl_tf.evaluate_robustness({"model": ensemble}, attacks, [0.05, 0.1], data)
        del ensemble
        if (seed + 1) % EVERY == 0:
            gc.collect()
            objects = gc.get_objects()
            graphs = sum(isinstance(each, tf.Graph) for each in objects)
            sys.stdout.write(
                f"{seed + 1} models: {resident()} MiB, {len(objects)} objects, {graphs} graphs\n"
            )
            sys.stdout.flush()


def resident() -> int:
    """The resident memory of this process, in MiB (Linux)."""
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    main()
