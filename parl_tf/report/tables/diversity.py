"""How differently members see, as a table."""

import functools

import numpy as np

from parl_tf.report.records.collection import Collection, Measurement
from parl_tf.report.records.labels import dataset_label, ordered_datasets, ordered_settings, plain
from parl_tf.report.tables.captions import trained
from parl_tf.report.tables.cells import Block, Row, Table, count, num_seeds, over_seeds

_COLUMNS = {
    "cka": "CKA",
    "unbiased_cka": "CKA unbiased",
    "gradient_cosines": "gradient cosine",
    "transfer": "transfer",
    "agreement_clean": "agree",
    "agreement_adversarial": "agree, attacked",
}
_OF_MEMBERS = ("transfer", "agreement_clean", "agreement_adversarial")


def diversity_table(collection: Collection) -> Table:
    """Means over layers, pairs of members and images, by setting."""
    datasets = ordered_datasets(item.dataset for item in collection.measurements)
    return Table(
        name="diversity",
        title="Diversity of members",
        caption="CKA is linear, biased as in the paper and unbiased beside it, the mean over "
        "layers; gradient cosine is that of the members' loss gradients; transfer is the part of "
        "what a member gets right that is lost on examples crafted on another; members agree if "
        "they label an image alike, clean or attacked. All are means over pairs of members, "
        "± the sample standard deviation over training seeds.",
        blocks=tuple(_block(collection, dataset) for dataset in datasets),
    )


def _block(collection, dataset) -> Block:
    """The part of the table on one data set."""
    here = [item for item in collection.measurements if item.dataset == dataset]
    rows = []
    for setting in ordered_settings(item.setting for item in here):
        own = [item for item in here if item.setting == setting]
        seeds = num_seeds(own, setting)
        cells = [
            over_seeds(own, functools.partial(_value, name), seeds=seeds, digits=3)
            for name in _COLUMNS
        ]
        rows.append(Row(label=setting.label, cells=(count(seeds), *cells)))
    return Block(
        title=dataset_label(dataset),
        notes=(_made(here[0]), *trained(here)),
        header=("setting", "seeds", *_COLUMNS.values()),
        rows=tuple(rows),
    )


def _made(item: Measurement) -> str:
    """How measures were made."""
    record = item.record
    attack = record.attack
    return (
        f"n = {record.data['num_examples']:,} test images; layers' {plain(record.tap)} outputs; "
        f"examples by {plain(attack.get('name'))} at epsilon {plain(attack.get('epsilon'))}."
    )


def _value(name: str, same: list[Measurement]) -> float | None:
    """Mean of what is defined of one measure, between different members."""
    values = np.array(getattr(same[0].record, name), float)
    if name in _OF_MEMBERS:
        values = values[~np.eye(len(values), dtype=bool)]
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else None
