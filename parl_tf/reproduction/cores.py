"""Divides the cores of this machine among jobs that run at the same time."""

import contextlib
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence

_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")


def usable_cores() -> list[int]:
    """The cores that this process may use; those that share a processor or a core in a row."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0), key=_place)
    return list(range(os.cpu_count() or 1))


def divide(cores: Sequence[int], jobs: int) -> list[list[int]]:
    """Divides cores into a set for each job.

    Returns:
        Disjoint sets whose sizes differ by at most one; with more jobs than cores, sets of one
        core, which several jobs share.
    """
    if jobs > len(cores):
        return [[cores[job % len(cores)]] for job in range(jobs)]
    bounds = [job * len(cores) // jobs for job in range(jobs + 1)]
    return [list(cores[start:end]) for start, end in itertools.pairwise(bounds)]


def with_threads(number: int) -> dict[str, str]:
    """This process's environment, and in it a number of threads unless the user set one."""
    return {**dict.fromkeys(_THREADS, str(number)), **os.environ}


@contextlib.contextmanager
def kept_to(cores: Sequence[int]) -> Iterator[None]:
    """Keeps this thread, and the processes it starts meanwhile, to some cores.

    TensorFlow, tf.data and OpenBLAS size their thread pools by the cores that their process may
    use. Does nothing where the system cannot keep a process to cores (macOS).
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)  # 0 is the calling thread
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _place(core: int) -> tuple[int, int, int]:
    """Where a core is: processor, physical core and its own number (Linux)."""
    folder = pathlib.Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        processor, physical = (
            int((folder / name).read_text()) for name in ("physical_package_id", "core_id")
        )
    except (OSError, ValueError):
        return 0, core, core
    return processor, physical, core
