"""Worst cases over attacks, restarts and surrogates, which the paper does not report."""

from parl_tf.report.records.collection import Collection
from parl_tf.report.records.labels import attack_label, dataset_label, ordered_datasets
from parl_tf.report.records.selection import (
    Group,
    chosen_epsilon,
    groups_of,
    surrogate_labels,
    where,
)
from parl_tf.report.tables.captions import DEVIATION, WORST_MEANS, on_images, threat, trained
from parl_tf.report.tables.cells import Block, Row, Table, count, num_seeds, worst_cell


def worst_table(collection: Collection, *, epsilon: float | None = None) -> Table:
    """Accuracy under all attacks of a protocol at once, by epsilon.

    Args:
        collection: Comparable records, as `agreed` returns them.
        epsilon: Radius at which each surrogate has a column; None as in `table1`.
    """
    groups = [group for group in groups_of(collection.results) if group.protocol != "diagnostics"]
    order = ordered_datasets(group.dataset for group in groups)
    blocks = [
        _worst_block(group, epsilon)
        for dataset in order
        for group in groups
        if group.dataset == dataset and _has_several(group)
    ]
    return Table(
        name="worst",
        title="Worst cases: accuracy under all attacks of a protocol",
        caption=f"{DEVIATION} {WORST_MEANS}",
        blocks=tuple(blocks),
    )


def _has_several(group: Group) -> bool:
    """Whether a group has several surrogates, or one attack with several hyperparameters."""
    attacks = {case.attack for case in group.cases()}
    return len(group.surrogates) > 1 or len(attacks) > len(group.attacks)


def _worst_block(group: Group, given: float | None) -> Block:
    """The part of the table on one group."""
    strengths = group.epsilons
    columns = [(f"epsilon {e:g}", where(group.results, epsilon=e)) for e in strengths]
    epsilon = given if given in strengths else chosen_epsilon([group])
    if len(group.surrogates) > 1:
        for fingerprint, name in surrogate_labels(group).items():
            chosen = where(group.results, epsilon=epsilon, surrogate=fingerprint)
            columns.append((f"from {name} at {epsilon:g}", chosen))
    rows = []
    for setting in group.settings:
        seeds = num_seeds(group.results, setting)
        cells = [worst_cell(group, results, setting, seeds) for _, results in columns]
        rows.append(Row(label=setting.label, cells=(count(seeds), *cells)))
    attacks = ", ".join(map(attack_label, group.attacks))
    cases = len({case.attack for case in group.cases()})
    made = "each target itself"
    if group.surrogates:
        made = ", ".join(surrogate_labels(group).values())
    return Block(
        title=f"{dataset_label(group.dataset)}, {threat(group)}, protocol {group.protocol}",
        notes=(
            f"{cases} attack{'s' if cases > 1 else ''} ({attacks}), crafted on {made}.",
            on_images(group.num_examples),
            *trained(group.results),
        ),
        header=("setting", "seeds", *(name for name, _ in columns)),
        rows=tuple(rows),
    )
