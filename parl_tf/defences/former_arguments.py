"""What was done before an argument was there, for configurations of earlier versions.

This module is also for tools that do without TensorFlow.
"""

from collections.abc import Mapping
from typing import Any

FORMER_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "dverge": {"distillation_moves_statistics": False},
    "trs": {"smoothness_scale": "example", "move_half": True, "batch_size": None},
    "guardian": {"stem_tap": None, "norms": "differentiated", "correlation": "pearson"},
}
"""By a method's name, the values of arguments where a configuration lacks them."""


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration, with the arguments that came after it as they were before."""
    method, arguments = config.get("method"), config.get("arguments")
    if not isinstance(method, str) or not isinstance(arguments, Mapping):
        return dict(config)
    return {**config, "arguments": {**FORMER_ARGUMENTS.get(method, {}), **arguments}}
