"""Attacks by name. A new one is a file beside this one and a line here."""

from parl_tf.registry import Registry

ATTACKS = Registry(
    "attack",
    {
        "fgsm": "parl_tf.attacks.fgsm:FGSM",
        "bim": "parl_tf.attacks.bim:BIM",
        "mim": "parl_tf.attacks.mim:MIM",
        "pgd": "parl_tf.attacks.pgd:PGD",
    },
)
