"""Protocols by name. A new one is an object in `catalogue.py` and a line here."""

from parl_tf.registry import Registry

PROTOCOLS = Registry(
    "protocol",
    {
        "paper": "parl_tf.protocols.catalogue:PAPER",
        "unlike-surrogates": "parl_tf.protocols.catalogue:UNLIKE_SURROGATES",
        "dverge": "parl_tf.protocols.catalogue:DVERGE",
        "white-box": "parl_tf.protocols.catalogue:WHITE_BOX",
        "diagnostics": "parl_tf.protocols.catalogue:DIAGNOSTICS",
    },
)

EPSILONS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07)
"""The strengths of PARL's paper, in pixel units of [0, 1]."""
