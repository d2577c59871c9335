"""Checks for masked gradients, target by target."""

import dataclasses

from parl_tf.evaluation.diagnostics import Check, masking_checks
from parl_tf.report.records.collection import Collection, Result
from parl_tf.report.records.labels import dataset_label, ordered_datasets, ordered_settings
from parl_tf.report.tables.formats import markdown, markdown_table
from parl_tf.results.settings import Setting

OUTCOMES = {True: "pass", False: "FAIL", None: "not run"}
HEADER = ("expected", "outcome", "numbers (%)")
TITLE = "Diagnostics: signs of masked gradients"
CAPTION = (
    "Checks that a defence passes if its gradients are useful to an attack (Carlini et al. 2019, "
    "arXiv 1902.06705). A target that fails one may still be robust, but its white-box accuracy "
    "is no evidence of it. Accuracies are worst cases over restarts, from records of protocol "
    "diagnostics."
)

_Target = tuple[str, Setting, int | None]  # data set, setting and seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The checks of one target, their title, and the results they were computed from."""

    title: str
    checks: list[Check]
    origins: list[Result]

    @property
    def rows(self) -> list[list[str]]:
        """The checks as rows of text cells."""
        return [[check.check, OUTCOMES[check.passed], check.detail] for check in self.checks]


def diagnoses(collection: Collection) -> list[Diagnosis]:
    """The checks of each target with records of protocol diagnostics."""
    by_target: dict[_Target, list[Result]] = {}
    for result in collection.results:
        if result.record.protocol == "diagnostics" and result.is_whole:
            by_target.setdefault((result.dataset, result.setting, result.seed), []).append(result)
    datasets = ordered_datasets(dataset for dataset, _, _ in by_target)
    settings = ordered_settings(setting for _, setting, _ in by_target)

    def place(target: _Target) -> tuple[int, int, int]:
        dataset, setting, seed = target
        return datasets.index(dataset), settings.index(setting), -1 if seed is None else seed

    found = []
    for target in sorted(by_target, key=place):
        dataset, setting, seed = target
        title = f"{dataset_label(dataset)}, {setting.label}"
        results = _with_clean(collection, by_target[target])
        found.append(
            Diagnosis(
                title=title if seed is None else f"{title}, seed {seed}",
                checks=masking_checks([result.record for result in results]),
                origins=results,
            )
        )
    return found


def to_markdown(found: list[Diagnosis]) -> str:
    """All checks in Markdown."""
    parts = [f"# {TITLE}\n", f"{CAPTION}\n"]
    for diagnosis in found:
        parts += [f"## {markdown(diagnosis.title)}\n", markdown_table(HEADER, diagnosis.rows)]
    if not found:
        parts.append("not run\n")
    return "\n".join(parts)


def _with_clean(collection: Collection, own: list[Result]) -> list[Result]:
    """A target's diagnostics and its clean result, which another protocol may have recorded."""
    if any(result.record.threat_model == "clean" for result in own):
        return own
    first = own[0]
    images = first.record.data["fingerprint"]
    clean = [
        dataclasses.replace(
            result, record=dataclasses.replace(result.record, protocol="diagnostics")
        )
        for result in collection.results
        if result.record.threat_model == "clean"
        and (result.setting, result.seed) == (first.setting, first.seed)
        and result.record.data["fingerprint"] == images
    ]
    return [*clean[:1], *own]
