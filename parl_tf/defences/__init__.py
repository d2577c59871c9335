"""Training methods by name. A new one is a file beside this one and a line here."""

from parl_tf.registry import Registry

METHODS = Registry(
    "method",
    {
        "unprotected": "parl_tf.defences.base:Ensemble",
        "parl": "parl_tf.defences.parl:PARL",
    },
)
