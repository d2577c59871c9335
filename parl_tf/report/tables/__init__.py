"""Tables as functions of records, and their text formats.

A new table is a function in a file beside this one and a line here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from parl_tf.registry import Registry

if TYPE_CHECKING:
    from parl_tf.report.tables.cells import Table

TABLES: "Registry[Callable[..., Table]]" = Registry(
    "table",
    {
        "table1": "parl_tf.report.tables.paper:table1",
        "worst": "parl_tf.report.tables.worst:worst_table",
        "table2": "parl_tf.report.tables.paper:table2",
        "diversity": "parl_tf.report.tables.diversity:diversity_table",
    },
)
"""Tables of a report by the name of their files, in their order on the page.

Each is a function of a `Collection` and of `epsilon`, the requested radius of the attacks.
"""
