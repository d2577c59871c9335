"""Protocols by name. To add one, define it in `catalogue.py` and list it here."""

from typing import TYPE_CHECKING

from parl_tf.registry import Registry

if TYPE_CHECKING:
    from parl_tf.protocols.base import Protocol

__all__ = ["PROTOCOLS"]

PROTOCOLS: "Registry[Protocol]" = Registry(
    "protocol",
    {
        "paper": "parl_tf.protocols.catalogue:PAPER",
        "unlike-surrogates": "parl_tf.protocols.catalogue:UNLIKE_SURROGATES",
        "dverge": "parl_tf.protocols.catalogue:DVERGE",
        "white-box": "parl_tf.protocols.catalogue:WHITE_BOX",
        "diagnostics": "parl_tf.protocols.catalogue:DIAGNOSTICS",
    },
)
"""Protocols by name: a mapping to instances of `Protocol`.

Example:
    >>> protocol = parl_tf.PROTOCOLS["paper"]
    >>> sorted({case.attack.name for case in protocol.cases()})
    ['bim', 'fgsm', 'mi-fgsm', 'mim', 'pgd']
"""

EPSILONS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07)
"""The attack strengths in PARL's paper, in pixel units of [0, 1]."""
