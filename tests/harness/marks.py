"""Marks of cases."""

import pytest


def slow_except(cases, *fast):
    """Cases to parametrise over, marked slow except some.

    Args:
        cases: All cases; those of several arguments are tuples.
        fast: Those that every run of the tests takes.

    Returns:
        A list for `pytest.mark.parametrize`.
    """
    assert set(fast) <= set(cases)
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else [case]),
            marks=() if case in fast else pytest.mark.slow,
        )
        for case in cases
    ]
