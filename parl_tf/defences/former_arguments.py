"""What training methods did before an argument was there, for files that lack it.

Imports no TensorFlow, so that the configuration of a run can be read without it.
"""

from collections.abc import Mapping
from typing import Any

FORMER_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "dverge": {"distillation_moves_statistics": False},
    "guardian": {"stem_tap": None, "norms": "differentiated", "correlation": "pearson"},
    "trs": {"smoothness_scale": "example", "move_half": True, "batch_size": None},
}
"""Values of the arguments that came later, by the name of the method and of the argument."""
