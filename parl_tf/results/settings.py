"""Training settings, by which tables and figures distinguish models."""

import dataclasses
import functools

from parl_tf.results.records import ModelCard

_METHODS = {
    "unprotected": "ENS_U",
    "adp": "ADP",
    "gal": "GAL",
    "dverge": "DVERGE",
    "parl": "PARL",
    "trs": "TRS",
    "guardian": "Guardian",
}
_BY_LAYERS = ("parl", "guardian")
_LONGEST = 60


def sanitized(text: object) -> str:
    """Text from a file on one line of at most 60 characters, without control characters."""
    printable = "".join(letter if letter.isprintable() else " " for letter in str(text))
    short = " ".join(printable.split())
    return short if len(short) <= _LONGEST else f"{short[: _LONGEST - 1]}…"


@functools.total_ordering
@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """How a model was trained, apart from the seed: a row in a table, a line in a figure.

    Settings sort in the order of the tables: the paper's, TRS, Guardian, PARL by decreasing number
    of layers, others by label; then all of these with adversarial training.

    Attributes:
        method: Name of the training method; "" for a model without a configuration.
        num_layers: How many layers PARL or Guardian compares; None for other methods.
        adversarially_trained: Whether the cross-entropy saw adversarial examples.
        name: Name of a model without a configuration, which is a setting of its own; else "".
    """

    method: str = ""
    num_layers: int | None = None
    adversarially_trained: bool = False
    name: str = ""

    @classmethod
    def of(cls, card: ModelCard) -> "Setting":
        """The setting of a model in a record."""
        config = card.config
        if config is None:
            return cls(name=sanitized(card.name))
        layers = config.arguments.get("num_layers") if config.method in _BY_LAYERS else None
        return cls(
            method=sanitized(config.method),
            num_layers=layers if type(layers) is int else None,
            adversarially_trained=config.is_adversarially_trained,
        )

    @property
    def label(self) -> str:
        """Its name in tables and figures, such as "PARL/7 + AT"."""
        label = self.name or _METHODS.get(self.method, self.method)
        if self.num_layers is not None:
            label += f"/{self.num_layers}"
        return f"{label} + AT" if self.adversarially_trained else label

    @property
    def parl_layers(self) -> int | None:
        """The number of layers of PARL without adversarial training; None for other settings."""
        is_parl = self.method == "parl" and not self.adversarially_trained
        return self.num_layers if is_parl else None

    def __str__(self) -> str:
        return self.label

    def __lt__(self, other: "Setting") -> bool:
        return self._rank < other._rank

    @property
    def _rank(self) -> tuple[bool, int, int, str, str]:
        """The sort key; equal only for equal settings."""
        plain = dataclasses.replace(self, adversarially_trained=False)
        layers = self.num_layers or 0
        if plain in PAPER_SETTINGS:
            place = (0, PAPER_SETTINGS.index(plain))
        else:
            place = {"trs": (1, 0), "guardian": (2, layers), "parl": (3, -layers)}.get(
                self.method, (4, 0)
            )
        return (self.adversarially_trained, *place, self.label, self.name)


UNPROTECTED = Setting(method="unprotected")
PAPER_SETTINGS = (
    UNPROTECTED,
    *(Setting(method=method) for method in ("adp", "gal", "dverge")),
    Setting(method="parl", num_layers=7),
)
"""The rows of the paper's Table 1."""
