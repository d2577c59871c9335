"""Attacks by name, and their properties. A new one is a file beside this one and an entry here.

Nothing here imports TensorFlow, so reports and `--help` know the attacks without it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from parl_tf.errors import InputError
from parl_tf.registry import Registry

__all__ = ["ATTACKS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackEntry:
    """The properties of an attack, known without importing it.

    Attributes:
        path: Its class, as "package.module:Class".
        label: Its name in papers and tables.
        gradient_based: Whether it follows the gradient of a loss through the model. White-box
            worst cases are over all attacks that do.
        control: Whether it is not an attack but a control, which ignores the model.
        transfer_oriented: Whether it is made to fool models other than the one that it is crafted
            on.
        takes_restarts: Whether it draws at random, and so can be run several times.
        one_step: Whether it takes a single step along the gradient.
        in_paper: Whether it is a column of Table 1 of PARL, arXiv 2112.04948.
    """

    path: str
    label: str
    gradient_based: bool
    control: bool = False
    transfer_oriented: bool = False
    takes_restarts: bool = False
    one_step: bool = False
    in_paper: bool = False


class AttackRegistry(Registry[Any]):
    """A mapping from attacks' names to their classes, with an `AttackEntry` for each.

    Args:
        entries: The entries by name, in the order of tables.

    Attributes:
        entries: The same, with those registered since.

    Example:
        >>> [name for name, entry in parl_tf.ATTACKS.entries.items() if entry.in_paper]
        ['fgsm', 'bim', 'mim', 'pgd']
        >>> parl_tf.ATTACKS.entries["mdi2-fgsm"].label
        'M-DI2-FGSM'
    """

    def __init__(self, entries: Mapping[str, AttackEntry]) -> None:
        super().__init__("attack", {})
        self.entries: dict[str, AttackEntry] = {}
        for name, entry in entries.items():
            self.register(name, entry)

    def register(self, name: str, entry: AttackEntry) -> None:
        """Adds an attack, such as one of your own, which reports and checks then know.

        Args:
            name: Its name, equal to the attribute `name` of its class.
            entry: Its properties.

        Raises:
            InputError: The name is taken.
        """
        if name in self.entries:
            raise InputError(f"Expected a new attack name. Received: {name!r}, which is taken.")
        self.entries[name] = entry
        self._entries[name] = entry.path


ATTACKS = AttackRegistry(
    {
        "fgsm": AttackEntry(
            path="parl_tf.attacks.iterative:FGSM",
            label="FGSM",
            gradient_based=True,
            one_step=True,
            in_paper=True,
        ),
        "bim": AttackEntry(
            path="parl_tf.attacks.iterative:BIM",
            label="BIM",
            gradient_based=True,
            in_paper=True,
        ),
        "mim": AttackEntry(
            path="parl_tf.attacks.momentum:MIM",
            label="MIM",
            gradient_based=True,
            transfer_oriented=True,
            in_paper=True,
        ),
        "pgd": AttackEntry(
            path="parl_tf.attacks.iterative:PGD",
            label="PGD",
            gradient_based=True,
            takes_restarts=True,
            in_paper=True,
        ),
        "mi-fgsm": AttackEntry(
            path="parl_tf.attacks.momentum:MIFGSM",
            label="MI-FGSM",
            gradient_based=True,
            transfer_oriented=True,
        ),
        "mdi2-fgsm": AttackEntry(
            path="parl_tf.attacks.momentum:MDI2FGSM",
            label="M-DI2-FGSM",
            gradient_based=True,
            transfer_oriented=True,
            takes_restarts=True,
        ),
        "sgm": AttackEntry(
            path="parl_tf.attacks.sgm:SGM",
            label="SGM",
            gradient_based=True,
            transfer_oriented=True,
            takes_restarts=True,
        ),
        "apgd": AttackEntry(
            path="parl_tf.attacks.art.apgd:APGD",
            label="APGD",
            gradient_based=True,
            takes_restarts=True,
        ),
        "square": AttackEntry(
            path="parl_tf.attacks.art.square:Square",
            label="Square",
            gradient_based=False,
            takes_restarts=True,
        ),
        "hop-skip-jump": AttackEntry(
            path="parl_tf.attacks.art.hop_skip_jump:HopSkipJump",
            label="HopSkipJump",
            gradient_based=False,
            takes_restarts=True,
        ),
        "uniform-noise": AttackEntry(
            path="parl_tf.attacks.uniform_noise:UniformNoise",
            label="uniform noise",
            gradient_based=False,
            control=True,
            takes_restarts=True,
        ),
    }
)
"""Attacks by name: a mapping to their classes, with an `AttackEntry` for each in `entries`.

Example:
    >>> parl_tf.ATTACKS["pgd"](num_steps=2).num_steps
    2
    >>> [name for name, entry in parl_tf.ATTACKS.entries.items() if entry.in_paper]
    ['fgsm', 'bim', 'mim', 'pgd']
"""

PAPER_ATTACKS = tuple(name for name, entry in ATTACKS.entries.items() if entry.in_paper)
"""Names of the attacks of PARL's Table 1, in the order of its columns."""
