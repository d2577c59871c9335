"""Attacks by name. A new one is a file beside this one and a line here."""

from parl_tf.registry import Registry

ATTACKS = Registry(
    "attack",
    {
        "fgsm": "parl_tf.attacks.fgsm:FGSM",
        "bim": "parl_tf.attacks.bim:BIM",
        "mim": "parl_tf.attacks.mim:MIM",
        "pgd": "parl_tf.attacks.pgd:PGD",
        "mi-fgsm": "parl_tf.attacks.mi_fgsm:MIFGSM",
        "mdi2-fgsm": "parl_tf.attacks.mdi2_fgsm:MDI2FGSM",
        "sgm": "parl_tf.attacks.sgm:SGM",
        "uniform-noise": "parl_tf.attacks.uniform_noise:UniformNoise",
        "apgd": "parl_tf.attacks.apgd:APGD",
        "square": "parl_tf.attacks.square:Square",
        "hop-skip-jump": "parl_tf.attacks.hop_skip_jump:HopSkipJump",
    },
)
