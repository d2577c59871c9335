"""Diversity of the members, as a table."""

import functools

import numpy as np

from parl_tf.report.records.collection import Collection, Measurement
from parl_tf.report.records.labels import (
    attack_label,
    dataset_label,
    ordered_datasets,
    ordered_settings,
    sanitized,
)
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


def diversity_table(collection: Collection, *, epsilon: float | None = None) -> Table:
    """Measurements of diversity by setting: means over layers, pairs of members and images.

    The notes give the epsilon of the measurements; the argument `epsilon` is for other tables.
    """
    datasets = ordered_datasets(item.dataset for item in collection.measurements)
    return Table(
        name="diversity",
        title="Diversity of members",
        caption="CKA is linear CKA averaged over layers, biased as in the paper and, next to it, "
        "unbiased. Gradient cosine is the cosine between the members' loss gradients. Transfer is "
        "the fraction of a member's correct images that it gets wrong on examples crafted on "
        "another member. Agree is the fraction of images that two members label alike, clean or "
        "attacked. Numbers are means over pairs of members, ± the sample standard deviation over "
        "training seeds.",
        blocks=tuple(_block(collection, dataset) for dataset in datasets),
    )


def _block(collection: Collection, dataset: str) -> Block:
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
    """How measurements were made."""
    record = item.record
    return (
        f"n = {record.data['num_examples']:,} test images; {sanitized(record.tap)} outputs of the "
        f"layers; adversarial examples by {attack_label(record.attack_key.name)} at epsilon "
        f"{record.attack['epsilon']:g}."
    )


def _value(name: str, same: list[Measurement]) -> float | None:
    """Mean over the defined values of one measure, excluding those of a member with itself."""
    values = np.array(getattr(same[0].record, name), float)
    if name in _OF_MEMBERS:
        values = values[~np.eye(len(values), dtype=bool)]
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else None
