"""Where numbers come from: files, models, attacks and versions, each listed once."""

import html
from collections.abc import Iterable, Sequence

from parl_tf.report.captions import described
from parl_tf.report.cells import Origin
from parl_tf.report.collection import Result, Source
from parl_tf.report.labels import attack_label, dataset_label, plain, seed_of
from parl_tf.results.records import ModelCard
from parl_tf.results.settings import Setting

PAPER = "paper"
_ON_ITSELF = "each target itself"
_COLUMNS = (
    "files",
    "protocol",
    "targets",
    "crafted on",
    "attacks",
    "epsilon",
    "n",
    "seed of draws",
    "wall time, s",
    "versions",
)


class Provenance:
    """Entries for numbers, made as they are asked for.

    Args:
        sources: All files of the report.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._files = {source: f"F{number}" for number, source in enumerate(sources, 1)}
        self._models: dict[tuple, str] = {}
        self._attacks: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        self._entries: dict[tuple, list[str]] = {}

    def entry(self, origins: Iterable[Origin]) -> str:
        """Name of the entry of the results that a number follows from."""
        origins = list(origins)
        key = tuple(map(id, origins))
        if key not in self._entries:
            self._entries[key] = [f"N{len(self._entries) + 1}", *self._describe(origins)]
        return self._entries[key][0]

    def to_html(self, citation: str) -> str:
        """All lists; `citation` is that of the paper's own numbers."""
        files = [
            [name, source.file, source.checksum, "" if source.finished else "unfinished"]
            for source, name in self._files.items()
        ]
        models = [
            [name, label, called, fingerprint, seed, trained_on]
            for (label, called, fingerprint, seed, trained_on), name in self._models.items()
        ]
        parts = [
            '<h3 id="entries">Numbers</h3>',
            _table(
                ("", *_COLUMNS),
                self._entries.values(),
                raw=True,
            ),
            "<h3>Files</h3>",
            _table(("", "file", "SHA-256 of the content", ""), files),
            "<h3>Models</h3>",
            _table(("", "setting", "name", "fingerprint", "seed", "trained on"), models),
            "<h3>Attacks</h3>",
            _table(("", "attack"), [[name, text] for text, name in self._attacks.items()]),
            "<h3>Versions</h3>",
            _table(("", "packages"), [[name, text] for text, name in self._versions.items()]),
            f'<p id="{PAPER}">Numbers marked (paper): {html.escape(citation)}.</p>',
        ]
        return "\n".join(parts)

    def _describe(self, origins: Sequence[Origin]) -> list[str]:
        """The cells of an entry, as HTML."""
        records = [origin.record for origin in origins]
        attacked = [origin for origin in origins if _is_attacked(origin)]
        surrogates = [
            origin.record.surrogate
            for origin in attacked
            if isinstance(origin, Result) and origin.record.surrogate
        ]
        made_on = _links(self._model(card) for card in surrogates)
        itself = any(isinstance(o, Result) and not o.record.surrogate for o in attacked)
        protocols = [o.record.protocol if isinstance(o, Result) else "diversity" for o in origins]
        return [
            _links(self._files[origin.source] for origin in origins),
            _texts(protocols),
            _links(self._model(origin.record.target) for origin in origins),
            ", ".join([*([made_on] if made_on else []), *([_ON_ITSELF] if itself else [])]),
            _links(self._attack(origin) for origin in attacked) or "none: clean images",
            _texts(f"{_epsilon(origin):g}" for origin in attacked),
            _texts(f"{record.data['num_examples']:,}" for record in records),
            _texts(str(record.seed) for record in records),
            f"{sum(record.seconds for record in records):,.1f}",
            _links(self._version(record.versions) for record in records),
        ]

    def _model(self, card: ModelCard) -> str:
        """Name of a model in its list."""
        seed = seed_of(card)
        trained_on = "not known"
        if card.config:
            dataset = card.config.dataset
            trained_on = f"{dataset_label(plain(dataset.name))} ({plain(dataset.fingerprint)})"
        key = (
            Setting.of(card).label,
            plain(card.name),
            plain(card.fingerprint),
            "not known" if seed is None else str(seed),
            trained_on,
        )
        return self._models.setdefault(key, f"M{len(self._models) + 1}")

    def _attack(self, origin: Origin) -> str:
        """Name of an attack in its list."""
        if isinstance(origin, Result):
            record = origin.record
            given = tuple(sorted(record.hyperparameters.items()))
            text = f"{attack_label(record.attack)} {described(given)}".strip()
        else:
            attack = origin.record.attack
            given = tuple(sorted(i for i in attack.items() if i[0] not in ("name", "epsilon")))
            text = f"{attack_label(plain(attack.get('name')))} {described(given)}".strip()
        return self._attacks.setdefault(text, f"A{len(self._attacks) + 1}")

    def _version(self, versions) -> str:
        """Name of a set of versions in its list."""
        text = ", ".join(f"{plain(name)} {plain(value)}" for name, value in versions.items())
        return self._versions.setdefault(text or "not known", f"V{len(self._versions) + 1}")


def _is_attacked(origin: Origin) -> bool:
    """Whether an attack is part of a result."""
    return not isinstance(origin, Result) or origin.record.threat_model != "clean"


def _epsilon(origin: Origin) -> float:
    """Strength of a result's attack."""
    if isinstance(origin, Result):
        return origin.record.epsilon
    return float(origin.record.attack.get("epsilon", 0.0))


def _links(names: Iterable[str]) -> str:
    """Links to entries of lists, each once."""
    return " ".join(f'<a href="#{name}">{name}</a>' for name in dict.fromkeys(names))


def _texts(texts: Iterable[str]) -> str:
    """Distinct texts."""
    return html.escape(", ".join(dict.fromkeys(map(plain, texts))))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, raw: bool = False) -> str:
    """A list: rows whose first cell is the name that links mean; `raw` cells are HTML already."""
    escape = (lambda text: text) if raw else html.escape
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    lines = ['<div class="wide"><table class="list">', f"<thead><tr>{head}</tr></thead>", "<tbody>"]
    for name, *cells in rows:
        body = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr id="{name}"><th scope="row">{name}</th>{body}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])
