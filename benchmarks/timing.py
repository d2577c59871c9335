"""Candidates timed in turn, so that what slows the machine slows all of them."""

import concurrent.futures
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def alternate(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1, pause: float = 0
) -> dict[str, list[float]]:
    """Calls every candidate once a round, forwards and backwards by turns.

    Args:
        candidates: What to time, by name; a call returns when its work is done.
        rounds: Timed calls of each.
        warmup: Rounds before these.
        pause: Seconds without work before each call.

    Returns:
        Seconds of each timed call, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warmup + rounds):
        names = list(candidates)
        for name in names if number % 2 == 0 else reversed(names):
            time.sleep(pause)
            start = time.perf_counter()
            candidates[name]()
            elapsed = time.perf_counter() - start
            if number >= warmup:
                seconds[name].append(elapsed)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, interquartile range and least in milliseconds, and the number of calls."""
    milliseconds = [1000 * each for each in seconds]
    median, spread = _median_and_spread(milliseconds)
    least = round(min(milliseconds), 2)
    return {"median_ms": median, "spread_ms": spread, "least_ms": least, "calls": len(seconds)}


def ratio(seconds: list[float], others: list[float]) -> tuple[float, float]:
    """Median and interquartile range of the ratios in each round, as slow as it was."""
    return _median_and_spread([one / other for one, other in zip(seconds, others, strict=True)])


def _median_and_spread(values: list[float]) -> tuple[float, float]:
    quarters = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return round(statistics.median(values), 2), round(quarters[2] - quarters[0], 2)


def wanted(name: str, only: list[str]) -> bool:
    """Whether a candidate's name begins with one of some letters, if there are any."""
    return not only or any(name.startswith(letters) for letters in only)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own, which ends with it."""
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory() -> float:
    """The largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
