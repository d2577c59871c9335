import pytest

from parl_tf.errors import InputError
from parl_tf.registry import Registry

COLORS = Registry("color", {"red": "math:pi", "green": "math:tau", "missing": "no_such_module:x"})


def test_names_are_listed_without_importing():
    assert list(COLORS) == ["red", "green", "missing"]
    assert len(COLORS) == 3
    assert "missing" in COLORS
    assert "blue" not in COLORS


def test_resolves_on_first_use():
    assert COLORS["red"] == pytest.approx(3.14159, abs=1e-5)


def test_unknown_name_comes_with_near_matches():
    with pytest.raises(InputError, match="Unknown color. Did you mean green.*Received: 'grene'"):
        COLORS["grene"]
    with pytest.raises(InputError, match="Unknown color. Expected one of red, green"):
        COLORS["xyz"]
