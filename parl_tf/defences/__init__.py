"""Training methods by name. A new one is a file beside this one and a line here."""

from typing import TYPE_CHECKING

from parl_tf.registry import Registry

if TYPE_CHECKING:
    from parl_tf.defences.base import Ensemble

__all__ = ["METHODS"]

METHODS: "Registry[type[Ensemble]]" = Registry(
    "method",
    {
        "unprotected": "parl_tf.defences.base:Ensemble",
        "adp": "parl_tf.defences.adp:ADP",
        "gal": "parl_tf.defences.gal:GAL",
        "dverge": "parl_tf.defences.dverge:DVERGE",
        "trs": "parl_tf.defences.trs:TRS",
        "guardian": "parl_tf.defences.guardian:Guardian",
        "parl": "parl_tf.defences.parl:PARL",
    },
)
"""Training methods by name: a mapping to subclasses of `Ensemble`.

Example:
    >>> sorted(parl_tf.METHODS)
    ['adp', 'dverge', 'gal', 'guardian', 'parl', 'trs', 'unprotected']
    >>> parl_tf.METHODS["parl"] is parl_tf.PARL
    True
"""
