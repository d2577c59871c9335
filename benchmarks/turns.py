"""Steps in processes of their own that compute one at a time.

For candidates that cannot share a process: two libraries that both keep threads for all cores. A
process answers every line that it reads with a line of JSON: the first when its first step is done,
each other one after one more step. This module needs nothing but Python's own library, so that an
interpreter of another environment can serve too.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


def serve(make: Callable[[], tuple[Callable[[], Any], dict[str, Any]]]) -> None:
    """Answers the other process until it closes the pipe.

    Args:
        make: Returns the step and what else the first answer tells. What it or the first step
            raises is that answer: the first line of the error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print would be taken for an answer.

    def answer(told: dict[str, Any]) -> None:
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    try:
        step, facts = make()
        start = time.perf_counter()
        step()
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]})
        return
    answer({"first_step_s": round(time.perf_counter() - start, 1), **facts})
    for _ in sys.stdin:
        step()
        answer({})


class Peer:
    """A process that serves steps, ended at the end of a `with`.

    Args:
        command: What to run.
        environment: Variables beside those of this process.

    Attributes:
        facts: Its first answer, with a key "error" if there is no step. A command that cannot be
            run, or that ends without an answer, is an error too.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        self.facts: dict[str, Any] = {}
        self._process: subprocess.Popen[str] | None = None
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **(environment or {})},
            )
            self.facts = self._read()
        except (OSError, RuntimeError) as error:
            self.facts = {"error": str(error)}

    def __call__(self) -> None:
        """One step, which is done when this returns."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._read()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with exit status {self._process.wait()}")
        return json.loads(line)
