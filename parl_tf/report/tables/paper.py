"""The paper's two tables."""

from collections.abc import Callable, Sequence

from parl_tf.attacks import PAPER_ATTACKS
from parl_tf.attacks.names import MI_FGSM, PGD
from parl_tf.errors import InputError
from parl_tf.report.records.collection import Collection, Result
from parl_tf.report.records.labels import (
    NOT_RUN,
    PAPER_DATASETS,
    attack_label,
    dataset_label,
    ordered_datasets,
    ordered_settings,
)
from parl_tf.report.records.selection import (
    SEVERAL_SURROGATES,
    SINGLE_SURROGATE,
    Group,
    chosen_epsilon,
    clean_on,
    find,
    groups_of,
    surrogate_labels,
    where,
)
from parl_tf.report.tables.captions import DEVIATION, WORST_MEANS, described, on_images, trained
from parl_tf.report.tables.cells import (
    Block,
    Cell,
    Row,
    Table,
    count,
    mean_accuracy,
    num_seeds,
    over_seeds,
    published,
    worst_cell,
)
from parl_tf.report.tables.published import CITATION, TABLE1, TABLE1_COLUMNS, TABLE2, TABLE2_LAYERS
from parl_tf.results.settings import PAPER_SETTINGS, Setting


def table1(collection: Collection, *, epsilon: float | None = None) -> Table:
    """Clean and black-box accuracy of all settings, beside the paper's.

    Args:
        collection: Comparable records, as `agreed` returns them.
        epsilon: Radius of the attacks; None for 0.07 if it was run, else the largest up to 0.1.

    Raises:
        InputError: The epsilon was not run, or the records of one surrogate and those of several
            are not on the same images.
    """
    groups = groups_of(collection.results)
    black = [g for g in groups if g.protocol in SINGLE_SURROGATE and g.surrogates]
    if epsilon is not None:
        chosen_epsilon(black, epsilon)
    datasets = ordered_datasets([*PAPER_DATASETS, *(r.dataset for r in collection.results)])
    return Table(
        name="table1",
        title="Table 1: clean and black-box accuracy",
        caption=f"{DEVIATION} PGD is the mean over restarts, as in the paper; PGD worst is the "
        f"worst case over them. {WORST_MEANS} Rows marked (paper) are quoted from {CITATION}; the "
        "surrogate, the training and the copy of the data set are not ours.",
        blocks=tuple(_table1_block(collection, groups, name, epsilon) for name in datasets),
    )


def _table1_block(
    collection: Collection, groups: Sequence[Group], dataset: str, given: float | None
) -> Block:
    """The part of Table 1 on one data set."""
    single = find(groups, dataset, "black_box", SINGLE_SURROGATE)
    several = _several(groups, dataset)
    if single and several and single.fingerprint != several.fingerprint:
        raise InputError(
            f"Expected one set of images of {dataset} in Table 1. Received: {single.fingerprint} "
            f"(protocol {single.protocol}), {several.fingerprint} (protocol {several.protocol})."
        )
    epsilon = chosen_epsilon([single], given) if single and given is None else given
    clean = clean_results(collection, groups, dataset)
    header = ["setting", "seeds", "clean", *map(attack_label, PAPER_ATTACKS)]
    header += ["PGD worst", "MI-FGSM", "PGD, all surrogates", "all attacks, all surrogates"]
    known = [*clean, *(single.results if single else []), *(several.results if several else [])]
    rows = []
    for setting in ordered_settings([*PAPER_SETTINGS, *(item.setting for item in known)]):
        seeds = num_seeds(known, setting)
        own = [item for item in clean if item.setting == setting]
        cells = [count(seeds), over_seeds(own, mean_accuracy, seeds=seeds)]
        cells += _transfer_cells(single, several, setting, epsilon, seeds)
        rows.append(Row(label=setting.label, cells=tuple(cells)))
        if dataset in TABLE1 and setting in TABLE1[dataset]:
            numbers = TABLE1[dataset][setting] or (None,) * len(TABLE1_COLUMNS)
            paper = [published(None), *map(published, numbers), *[published(None)] * 4]
            rows.append(Row(label=f"{setting.label} (paper)", cells=tuple(paper)))
    notes = _notes(single, epsilon) if single else [f"Black box: {NOT_RUN}."]
    if several:
        names = ", ".join(surrogate_labels(several).values())
        notes.append(
            f"All surrogates: the worst case over the {len(several.surrogates)} surrogates "
            f"{names} (protocol {several.protocol})."
        )
    return Block(
        title=dataset_label(dataset),
        notes=(*notes, *trained(known)),
        header=tuple(header),
        rows=tuple(rows),
    )


def _several(groups: Sequence[Group], dataset: str) -> Group | None:
    """The group with several surrogates for the worst cases of Table 1."""
    several = [group for group in groups if len(group.surrogates) > 1]
    return find(several, dataset, "black_box", SEVERAL_SURROGATES)


def _transfer_cells(
    single: Group | None, several: Group | None, setting: Setting, epsilon: float | None, seeds: int
) -> list[Cell]:
    """The black-box cells of a row of Table 1."""

    def cell(
        group: Group | None, attack: str, value: Callable[[list], float | None], **also: str
    ) -> Cell:
        if group is None:
            return Cell(note=NOT_RUN)
        found = where(
            group.results,
            attack_key=group.standard(attack),
            epsilon=epsilon,
            setting=setting,
            **also,
        )
        return over_seeds(found, value, seeds=seeds)

    first = {"surrogate": single.surrogates[0].fingerprint} if single else {}
    cells = [cell(single, attack, mean_accuracy, **first) for attack in PAPER_ATTACKS]
    cells.append(cell(single, PGD, lambda same: 100 * same[0].record.worst_case_accuracy, **first))
    cells.append(cell(single, MI_FGSM, mean_accuracy, **first))
    if several is None:
        return [*cells, Cell(note=NOT_RUN), Cell(note=NOT_RUN)]
    there = where(several.results, epsilon=epsilon)
    for chosen in (where(there, attack=PGD), there):
        cells.append(worst_cell(several, chosen, setting, seeds))
    return cells


def clean_results(collection: Collection, groups: Sequence[Group], dataset: str) -> list[Result]:
    """Results on the clean images of Table 1, else on others of the data set."""
    protocols = (*SINGLE_SURROGATE, "dverge", "white-box", "diagnostics")
    order = [
        find(groups, dataset, threat_model, protocols)
        for threat_model in ("black_box", "white_box")
    ]
    images = [group.fingerprint for group in order if group]
    images += [
        result.record.data["fingerprint"]
        for result in collection.results
        if result.dataset == dataset and result.record.threat_model == "clean"
    ]
    found = (clean_on(collection.results, dataset, fingerprint) for fingerprint in images)
    return next((results for results in found if results), [])


def table2(collection: Collection, *, epsilon: float | None = None) -> Table:
    """Clean accuracy of PARL, by the number of layers that it compares, whatever the epsilon."""
    groups = groups_of(collection.results)
    layers = [*TABLE2_LAYERS]
    found = [result.setting.parl_layers for result in collection.results]
    layers += sorted({number for number in found if number and number not in layers}, reverse=True)
    parl = [result.dataset for result in collection.results if result.setting.parl_layers]
    rows, notes = [], []
    for dataset in ordered_datasets([*PAPER_DATASETS, *parl]):
        clean = clean_results(collection, groups, dataset)
        own = [item for item in clean if item.setting.parl_layers]
        seeds = len({item.seed for item in own})
        cells = [
            over_seeds(
                [item for item in own if item.setting.parl_layers == number],
                mean_accuracy,
                seeds=seeds,
            )
            for number in layers
        ]
        rows.append(Row(label=dataset_label(dataset), cells=(count(seeds), *cells)))
        if dataset in TABLE2:
            paper = [*TABLE2[dataset], *[None] * (len(layers) - len(TABLE2_LAYERS))]
            cells = [published(None), *map(published, paper)]
            rows.append(Row(label=f"{dataset_label(dataset)} (paper)", cells=tuple(cells)))
        if own:
            label = dataset_label(dataset)
            notes += [
                f"{label}: {on_images(own[0].record.num_examples)}",
                *trained(own, "Its targets"),
            ]
    return Table(
        name="table2",
        title="Table 2: clean accuracy of PARL by number of layers",
        caption=f"{DEVIATION} Rows marked (paper) are quoted from {CITATION.split(':')[0]}.",
        blocks=(
            Block(
                title="Clean images",
                notes=tuple(notes),
                header=("data set", "seeds", *(f"PARL/{number}" for number in layers)),
                rows=tuple(rows),
            ),
        ),
    )


def _notes(group: Group, epsilon: float | None) -> list[str]:
    """How the numbers in Table 1's black-box columns were obtained."""
    name = next(iter(surrogate_labels(group).values()))
    kept = [name for name in group.attacks if name in (*PAPER_ATTACKS, MI_FGSM)]
    attacks = "; ".join(described(attack) for attack in map(group.standard, kept) if attack)
    return [
        f"Black box at epsilon {epsilon:g} from one surrogate, {name} (protocol {group.protocol}).",
        on_images(group.num_examples),
        f"Attacks: {attacks}.",
    ]
