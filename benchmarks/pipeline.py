"""The input pipeline alone, and its share of an unprotected step."""

from collections.abc import Iterator
from typing import Any

import steps
import timing

_BATCHES = 50  # a call; what was prefetched while another was timed is 2


def measure(batch_sizes: list[int], rounds: int) -> Iterator[dict[str, Any]]:
    """A row for every batch size and kind of batches, on 50,000 random images of CIFAR's shape."""
    import numpy as np

    import parl_tf
    from parl_tf.data.examples import Split

    draw = np.random.default_rng(0)
    images = draw.random((50_000, 32, 32, 3), dtype=np.float32)
    split = Split(images, draw.integers(0, 10, 50_000))
    for batch_size in batch_sizes:
        given = {"batch_size": batch_size, "seed": 0}
        iterators = {
            "shifted and flipped": iter(parl_tf.training_batches(split, **given).repeat()),
            "with noise": iter(
                parl_tf.training_batches(split, noise_stddev=0.045, **given).repeat()
            ),
            "in pairs": iter(parl_tf.paired_batches(split, **given).repeat()),
        }
        calls = {
            name: lambda batches=batches: [next(batches) for _ in range(_BATCHES)]
            for name, batches in iterators.items()
        }
        seconds = timing.alternate(calls, rounds, warmup=2)
        unprotected = steps.step("unprotected", [], batch_size, xla=False)
        floor = timing.summary(timing.alternate({"step": unprotected}, rounds, 2)["step"])
        for name, each in seconds.items():
            row = timing.summary([call / _BATCHES for call in each])
            share = 100 * row["median_ms"] / floor["median_ms"]
            yield {
                "batches": name,
                "batch": batch_size,
                **row,
                "share_of_unprotected_step": f"{share:.1f} %",
            }
