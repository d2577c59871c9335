"""Whether records can stand in one table."""

import dataclasses
import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from parl_tf.errors import InputError
from parl_tf.report.collection import Collection, Measurement, Result
from parl_tf.report.labels import plain

# What seeds of one setting may differ in: the seed itself, the start that was trained from it, and
# what does not decide a result.
_FREE = {
    *("seed", "arguments.seed", "dataset.seed", "start_from"),
    *("deterministic", "devices", "versions", "commit", "format"),
}
_UNSEEN = object()

Described = Result | Measurement


def agreed(collection: Collection) -> Collection:
    """Checks that what is put into one table is of one kind, and keeps each record once.

    Args:
        collection: What was read.

    Returns:
        The same without repetitions.

    Raises:
        InputError: Contradicting records of one result; targets of one setting that differ in
            more than their seed; records of one protocol and data set that differ in images,
            surrogates, hyperparameters, strengths or seed.
    """
    results = _each_once(collection.results, _identity, _verdict)
    measurements = _each_once(collection.measurements, _measured, _measures)
    described: list[Described] = [*results, *measurements]
    for _, group in _grouped(described, lambda item: item.dataset):
        _check_copies(group)
        _check_settings(group)
    attacked = [result for result in results if result.record.threat_model != "clean"]
    for (_, protocol, threat_model), group in _grouped(
        attacked,
        lambda item: (item.dataset, item.record.protocol, item.record.threat_model),
    ):
        _check_protocol(group, f"protocol {protocol}, {threat_model.replace('_', ' ')}")
    for dataset, group in _grouped(measurements, lambda item: item.dataset):
        for name in ("fingerprint", "num_examples"):
            _check_equal(
                group, f"{name} of images of {dataset}", lambda i, n=name: i.record.data[n]
            )
        _check_equal(group, f"tap of measures on {dataset}", lambda item: item.record.tap)
        _check_equal(group, f"attack of measures on {dataset}", lambda item: item.record.attack)
    return dataclasses.replace(collection, results=results, measurements=measurements)


def hyperparameters_of(item: Result) -> tuple:
    """Hyperparameters of an attack, to compare."""
    return tuple(sorted(item.record.hyperparameters.items()))


def _grouped(items: Iterable[Any], key) -> list[tuple[Any, list[Any]]]:
    """Items by a key, in the order of its first appearance."""
    groups: dict[Hashable, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())


def _each_once(items, identity, content):
    """Items without repetitions; raises for those that contradict each other."""
    kept: dict[Hashable, Any] = {}
    for item in items:
        first = kept.setdefault(identity(item), item)
        if content(first) != content(item):
            raise InputError(
                f"Expected one result for {item.setting} "
                f"({plain(item.record.target.fingerprint)}). Received: two that contradict each "
                f"other, in {first.source.file} and {item.source.file}."
            )
    return list(kept.values())


def _identity(item):
    """What result a record is of."""
    record = item.record
    surrogate = record.surrogate.fingerprint if record.surrogate else None
    clean = record.threat_model == "clean"
    return (
        item.dataset,
        record.data["fingerprint"],
        None if clean else record.protocol,
        item.setting,
        item.seed,
        record.target.fingerprint,
        record.threat_model,
        surrogate,
        record.attack,
        hyperparameters_of(item),
        record.epsilon,
        None if clean else record.seed,
    )


def _verdict(item):
    """What a record says, but for wall time and versions."""
    return item.record.correct


def _measured(item):
    """What a record of diversity is of."""
    record = item.record
    images = record.data["fingerprint"]
    return (item.dataset, images, item.setting, item.seed, record.target.fingerprint, record.tap)


def _measures(item):
    """What a record of diversity says, but for wall time and versions."""
    names = ("cka", "unbiased_cka", "transfer", "gradient_cosines")
    return {name: getattr(item.record, name) for name in names}


def _check_equal(group, what, value) -> None:
    """Raises unless a value is the same for all."""
    first = group[0]
    for item in group[1:]:
        if value(item) != value(first):
            raise InputError(
                f"Expected one {what} in a table. Received: {value(first)!r} "
                f"({first.source.file}), {value(item)!r} ({item.source.file})."
            )


def _check_copies(group: Sequence[Described]) -> None:
    """Raises if a name stands for two copies of a data set."""
    known = [item for item in group if item.record.data.get("dataset_fingerprint") is not None]
    if known:
        what = f"copy of {known[0].dataset}"
        _check_equal(known, what, lambda item: item.record.data["dataset_fingerprint"])


def _check_settings(group: Sequence[Described]) -> None:
    """Raises if targets of one label differ in more than their seeds, or of one seed at all."""
    for setting, alike in _grouped(group, lambda item: item.setting):
        for seed, same in _grouped(alike, lambda item: item.seed):
            weights = f"set of weights for {setting}" + (
                f", seed {seed}" if seed is not None else ""
            )
            _check_equal(same, weights, lambda item: item.record.target.fingerprint)
        first = alike[0]
        for item in alike[1:]:
            difference = _difference(*(_config_of(each) for each in (first, item)))
            if difference:
                name, there, here = difference
                raise InputError(
                    f"Expected targets of {setting} that differ in their seeds only. Received: "
                    f"{name} {there!r} ({first.source.file}), {here!r} ({item.source.file})."
                )


def _config_of(item: Described) -> dict[str, Any] | None:
    """The configuration of a target as a JSON value, to compare field by field."""
    config = item.record.target.config
    return config and config.to_json()


def _difference(one: Any, other: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The first difference of two configurations: its name, and both values."""
    if name in _FREE:
        return None
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}, key=str):
            path = f"{name}.{key}" if name else str(key)
            found = _difference(one.get(key, _UNSEEN), other.get(key, _UNSEEN), path)
            if found:
                return found
        return None
    if one == other:
        return None
    shown = ("nothing" if value is _UNSEEN else value for value in (one, other))
    first, second = shown
    return (name or "a configuration", _brief(first), _brief(second))


def _brief(value):
    """A value short enough for a message."""
    return "{...}" if isinstance(value, Mapping) else value


def _check_protocol(group: Sequence[Result], what: str) -> None:
    """Raises unless records of one protocol were made alike.

    A target may lack what others have: that is not run. It must not have other things instead.
    """
    _check_equal(group, f"set of images ({what})", lambda item: item.record.data["fingerprint"])
    _check_equal(group, f"number of images ({what})", lambda item: item.record.num_examples)
    _check_equal(group, f"seed ({what})", lambda item: item.record.seed)
    _check_nested(
        group,
        f"surrogates ({what})",
        lambda item: item.record.surrogate and item.record.surrogate.fingerprint,
    )
    _check_nested(group, f"epsilons ({what})", lambda item: item.record.epsilon)
    for attack, same in _grouped(group, lambda item: item.record.attack):
        _check_nested(same, f"hyperparameters of {attack} ({what})", hyperparameters_of)


def _check_nested(group, what, value) -> None:
    """Raises if one of two targets has a value that the other lacks, and the other way round."""
    targets = _grouped(group, lambda item: (item.setting, item.seed))
    found = [({value(item) for item in items}, items[0]) for _, items in targets]
    for (these, first), (those, second) in itertools.combinations(found, 2):
        if not (these <= those or those <= these):
            only, others = (_listed(values) for values in (these - those, those - these))
            raise InputError(
                f"Expected the same {what} for all targets of a table. Received: {only} for "
                f"{first.setting} ({first.source.file}), {others} for {second.setting} "
                f"({second.source.file})."
            )


def _listed(values) -> str:
    """Values in a message."""
    return ", ".join(sorted(map(str, values)))
