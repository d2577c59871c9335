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
