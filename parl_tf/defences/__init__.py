"""Training methods by name. A new one is a file beside this one and a line here."""

from parl_tf.registry import Registry

METHODS = Registry(
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
