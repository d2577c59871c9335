"""The behaviour of training methods before an argument was added, for files that lack it.

Imports no TensorFlow, so that the configuration of a run can be read without it.
"""

from collections.abc import Mapping
from typing import Any

FORMER_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "dverge": {"distillation_moves_statistics": False},
    "guardian": {"stem_tap": None, "norms": "differentiated", "correlation": "pearson"},
    "trs": {"smoothness_scale": "example", "move_half": True, "batch_size": None},
}
"""Values of arguments that were added later, by the names of the method and the argument."""
