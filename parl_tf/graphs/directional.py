"""Compares directional derivatives of one layer's gradient with finite differences."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from parl_tf.graphs.single_layers import LayerCall, Point, SingleLayer

_ATTEMPTS = 6
_LARGEST = 8  # height and width, if a layer accepts any
# By the bytes of a number: the relative tolerance of a derivative; the steps of central
# differences; the smallest relative change of the gradient that is distinguishable from rounding.
_TOLERANCE = {8: 1e-3, 4: 3e-2, 2: 0.5}
_STEPS = {8: (1e-6, 5e-7), 4: (2e-2, 1e-2)}
_ROUNDING = {8: 1e-6, 4: 3e-3}


class Verdict(NamedTuple):
    """The result for a layer.

    Attributes:
        fault: What is wrong with its second derivative ("is missing"); None if no fault was found.
        rebuilt: Whether the layer was rebuilt from its configuration.
        found_right: Whether it was found correct; otherwise differences could not measure it.
    """

    fault: str | None
    rebuilt: bool
    found_right: bool = False


def judged(call: LayerCall) -> Verdict:
    """Compares the derivatives of a layer's gradient with finite differences.

    The gradient, for a random upstream gradient u and times a random direction, is one number. It
    is linear in u, so its derivative along another u is exactly its value for that one. Its
    derivative along inputs and weights is compared with central differences of two step sizes, if
    these agree; at a kink they do not. A fault must be found at two points. A layer is correct if
    one more point is right than wrong, or two more if it is judged without rebuilding, in fewer
    digits.

    Args:
        call: The layer, with the inputs that it gets in the network.
    """
    return _judged(call, rebuild=True) or _judged(call, rebuild=False) or Verdict(None, False)


def _judged(call: LayerCall, *, rebuild: bool) -> Verdict | None:
    """The result for a layer, rebuilt or as it is; None if it cannot be rebuilt."""
    subjects: list[SingleLayer] = []
    faults: list[str] = []
    right = 0
    try:
        subjects = _rebuilt(call) if rebuild else [_as_it_is(call)]
        if not subjects:
            return None
        for attempt in range(_ATTEMPTS):
            fault = _fault_at(subjects, attempt)
            if fault == "":
                right += 1
                if right - len(faults) >= (1 if rebuild else 2):
                    return Verdict(None, rebuild, found_right=True)
            if fault and subjects[0].training and subjects[0].sets_weights():
                # A call overwrites changes to such weights, except in inference mode.
                for subject in subjects:
                    subject.training = False
                continue
            faults += [fault] if fault else []
            if len(faults) == 2:
                return Verdict(fault, rebuild)
        return Verdict(None, rebuild)
    except Exception as error:  # a user's layer may raise anything, as training will show
        if rebuild:
            return None
        missing = type(error) is LookupError  # TensorFlow's
        return Verdict(f"is missing ({str(error).splitlines()[0]})" if missing else None, False)
    finally:
        for subject in subjects:
            subject.restore()


def _rebuilt(call: LayerCall) -> list[SingleLayer]:
    """The layer in float64 and in its own precision; nothing if it cannot be rebuilt."""
    given = call.arguments, call.options
    for arguments in (_cropped(given), given):
        try:
            # In float64 and in its own type, on the same values.
            wide = SingleLayer(call, arguments, "float64")
            if wide.stands_for_its_layer():
                return [wide, SingleLayer(call, arguments, None)]
        except Exception:  # a user's layer may raise anything
            continue
    return []


def _as_it_is(call: LayerCall) -> SingleLayer:
    """The layer itself, on its full inputs."""
    return SingleLayer(call, (call.arguments, call.options), None, rebuild=False)


def _cropped(given: tuple[tuple, dict[str, Any]]) -> tuple[tuple, dict[str, Any]]:
    """Arguments with images cropped to the largest size needed."""

    def crop(value: Any) -> Any:
        image = tf.is_tensor(value) and len(value.shape) == 4
        return value[:, :_LARGEST, :_LARGEST] if image else value

    return keras.tree.map_structure(crop, given)


def _fault_at(subjects: Sequence[SingleLayer], attempt: int) -> str | None:
    """The fault at a random point: "" if there is none, None if it cannot be determined."""
    measure = subjects[0]
    draw = np.random.default_rng(attempt)
    point = measure.point(draw, near=attempt < _ATTEMPTS - 1)
    upstream = [draw.normal(size=each.shape) for each in point.upstream]
    changes = measure.changes(draw)
    found = [subject.derivatives(point, upstream, changes) for subject in subjects]
    value, norm = found[0].value, found[0].norm
    linear = measure.product(point._replace(upstream=upstream))
    if not np.isfinite([value, norm, linear]).all():
        return None
    # A layer's random draws differ between types, and then so does its value.
    own = [] if measure.draws else found[1:]
    found = [found[0], *(each for each in own if abs(each.value - value) <= 0.1 * norm)]
    fault = max(_fault(each.upstream, linear, each.size, 1e-4 * norm) for each in found)
    rounding = _ROUNDING.get(measure.size, 0) * norm
    slopes: list[float] = []
    for step in _STEPS.get(measure.size, ()):
        ahead, behind = (measure.product(_moved(point, changes, sign * step)) for sign in (1, -1))
        slopes.append((ahead - behind) / (2 * step))
        other = max(
            _fault(each.rest, slopes[-1], min(each.size, measure.size), rounding) for each in found
        )
        if not fault and not other:
            return ""
    if slopes and abs(slopes[0] - slopes[1]) <= rounding + 1e-3 * max(np.abs(slopes)):
        fault = max(fault, other)
    if not fault:
        return None if slopes else ""
    again = measure.product(point)
    return fault if abs(again - value) <= 1e-4 * norm else None  # it draws without a seed


def _fault(found: tuple[float, float], measured: float, size: int, rounding: float) -> str:
    """The fault of a derivative, given as its value and its length; "" if there is none."""
    derivative, length = found
    off = abs(derivative - measured)
    if not off > rounding + _TOLERANCE[size] * max(length, abs(measured)):
        return ""
    return "is wrong" if length else "is missing"


def _moved(point: Point, changes: tuple[list[np.ndarray], list[np.ndarray]], step: float) -> Point:
    """A point with inputs and weights moved along changes."""
    inputs, weights = (
        [value + step * change for value, change in zip(*each, strict=True)]
        for each in zip((point.inputs, point.weights), changes, strict=True)
    )
    return point._replace(inputs=inputs, weights=weights)
