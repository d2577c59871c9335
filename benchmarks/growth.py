"""How costs grow: steps with members and with compared layers, attacks with images."""

from collections.abc import Iterator
from typing import Any

import crafting
import steps
import timing


def members(counts: list[int], batch_size: int, rounds: int) -> Iterator[dict[str, Any]]:
    """A row for every number of members, unprotected and PARL/7."""
    for method in ("unprotected", "PARL/7"):
        calls = {
            str(count): steps.step(method, [7], batch_size, xla=False, members=count)
            for count in counts
        }
        yield from _rows({"method": method, "batch": batch_size}, "members", calls, rounds)


def layers(counts: list[int], batch_size: int, rounds: int) -> Iterator[dict[str, Any]]:
    """A row for every number of compared layers."""
    calls = {
        str(count): steps.step(f"PARL/{count}", [count], batch_size, xla=False) for count in counts
    }
    yield from _rows({"method": "PARL", "batch": batch_size}, "layers", calls, rounds)


def images(counts: list[int], rounds: int) -> Iterator[dict[str, Any]]:
    """A row for every number of attacked images, BIM of ten steps in batches of 250."""
    import numpy as np

    import parl_tf

    ensemble, some, labels = crafting.model()
    crafter = parl_tf.BIM(num_steps=10).prepare(ensemble)
    calls = {}
    for count in counts:
        index = np.arange(count) % len(some)
        calls[str(count)] = lambda x=some[index], y=labels[index]: crafter(
            x, y, epsilon=crafting.EPSILON, batch_size=250
        )
    yield from _rows({"attack": "bim, 10 steps"}, "images", calls, rounds)


def _rows(common, what, calls, rounds):
    """A row a call, each with its time beside that of the first."""
    seconds = timing.alternate(calls, rounds, warmup=2)
    first = None
    for name, each in seconds.items():
        row = timing.summary(each)
        first = first or (int(name), row["median_ms"])
        yield {
            **common,
            what: int(name),
            **row,
            f"ms_a_{what[:-1]}": round(row["median_ms"] / int(name), 2),
            "times_the_first": round(row["median_ms"] / first[1], 2),
        }
