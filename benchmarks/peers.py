"""The unprotected training step beside the same step in PyTorch, on the same machine.

Three ResNet20, cross-entropy summed over them, the L2 penalty on kernels, Adam. PyTorch is needed
by nothing else; `--torch-python` of speed.py names a Python that has it. Each candidate has a
process of its own, and one computes at a time.
"""

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import timing
import turns

_FOLDER = pathlib.Path(__file__).parent
_OURS = "parl_tf, unprotected"
_THEIRS = {
    "PyTorch": "plain",
    "PyTorch, channels last": "channels_last",
    "PyTorch, compiled": "compiled",
}
# OpenMP's threads, PyTorch's, wait for more work in a loop that takes a core; these put them to
# sleep at once, unless the caller chose otherwise. The pause is for all other threads.
_WAITING = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
_PAUSE = 0.2


def measure(
    batch_sizes: list[int], rounds: int, torch_python: str = sys.executable
) -> Iterator[dict[str, Any]]:
    """A row for every candidate at every batch size; one that cannot be run says why."""
    environment = {name: os.environ.get(name, value) for name, value in _WAITING.items()}
    for batch_size in batch_sizes:
        size = str(batch_size)
        commands = {_OURS: [sys.executable, str(_FOLDER / "peers.py"), size]} | {
            name: [torch_python, str(_FOLDER / "torch_step.py"), kind, size]
            for name, kind in _THEIRS.items()
        }
        with contextlib.ExitStack() as stack:
            peers = {
                name: stack.enter_context(turns.Peer(command, environment))
                for name, command in commands.items()
            }
            yield from _rows(peers, batch_size, rounds)


def _rows(peers: dict[str, turns.Peer], batch_size: int, rounds: int) -> Iterator[dict[str, Any]]:
    running = {name: peer for name, peer in peers.items() if "error" not in peer.facts}
    if _OURS not in running:
        raise RuntimeError(f"{_OURS}: {peers[_OURS].facts['error']}")
    numbers = {name: peer.facts["parameters"] for name, peer in running.items()}
    if len(set(numbers.values())) > 1:
        raise RuntimeError(f"Expected equal numbers of parameters. Received: {numbers}.")
    seconds = timing.alternate(running, rounds, warmup=2, pause=_PAUSE)
    ours = seconds[_OURS]
    for name, peer in peers.items():
        row: dict[str, Any] = {"step": name, "batch": batch_size}
        if name in running:
            row |= timing.summary(seconds[name])
            row["images_per_s"] = round(1000 * batch_size / row["median_ms"], 1)
            row["ours_over_it"], row["spread_of_ratio"] = timing.ratio(ours, seconds[name])
            row["ours_over_it_by_least"] = round(min(ours) / min(seconds[name]), 2)
        yield row | peer.facts


def _make(batch_size: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Our step, and what it is made of."""
    import steps
    import tensorflow as tf

    import parl_tf

    step = steps.step("unprotected", [], batch_size, xla=False)
    weights = parl_tf.resnet20(10).trainable_variables
    return step, {
        "parameters": 3 * sum(weight.shape.num_elements() for weight in weights),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),
        "version": tf.__version__,
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "unset"),
    }


if __name__ == "__main__":
    turns.serve(lambda: _make(int(sys.argv[1])))
