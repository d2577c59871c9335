"""Checks that records are comparable."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from parl_tf.errors import InputError
from parl_tf.report.records.collection import Collection, Measurement, Origin, Result
from parl_tf.report.records.labels import sanitized

# What the targets of one setting may differ in: the seed and what follows from it, and what does
# not affect results.
_FREE = {
    *("seed", "arguments.seed", "dataset.seed", "start_from"),
    *("deterministic", "devices", "versions", "commit", "format"),
}
_UNSEEN = object()

T = TypeVar("T")
SomeOrigin = TypeVar("SomeOrigin", bound=Origin)
K = TypeVar("K", bound=Hashable)


def agreed(collection: Collection) -> Collection:
    """Checks that the records of a table are comparable, and drops repeated ones.

    Args:
        collection: Records as they were read.

    Returns:
        The records, each once.

    Raises:
        InputError: Two records of one result contradict each other; targets of one setting differ
            in more than their seed; or records of one protocol and data set differ in their
            images, surrogates, hyperparameters, epsilons or seed.
    """
    results = _each_once(collection.results, _identity, _verdict)
    measurements = _each_once(collection.measurements, _measured, _measures)
    described: list[Origin] = [*results, *measurements]
    for _, of_dataset in _grouped(described, lambda item: item.dataset):
        _check_copies(of_dataset)
        _check_settings(of_dataset)
    attacked = [result for result in results if result.record.threat_model != "clean"]
    for (_, protocol, threat_model), group in _grouped(
        attacked,
        lambda item: (item.dataset, item.record.protocol, item.record.threat_model),
    ):
        _check_protocol(group, f"protocol {protocol}, {threat_model.replace('_', ' ')}")
    for dataset, measured in _grouped(measurements, lambda item: item.dataset):
        for name in ("fingerprint", "num_examples"):
            value = functools.partial(_of_images, name)
            _check_equal(measured, f"{name} of images of {dataset}", value)
        _check_equal(measured, f"tap of measurements on {dataset}", lambda item: item.record.tap)
        attack = f"attack of measurements on {dataset}"
        _check_equal(measured, attack, lambda item: item.record.attack)
    return dataclasses.replace(collection, results=results, measurements=measurements)


def _of_images(name: str, item: Origin) -> object:
    """One field of a record's description of its images."""
    return item.record.data[name]


def _grouped(items: Iterable[T], key: Callable[[T], K]) -> list[tuple[K, list[T]]]:
    """Items by a key, in the order of its first appearance."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())


def _each_once(
    items: Iterable[SomeOrigin],
    identity: Callable[[SomeOrigin], Hashable],
    content: Callable[[SomeOrigin], object],
) -> list[SomeOrigin]:
    """Items without repetitions. Raises if two have one identity and different content."""
    kept: dict[Hashable, SomeOrigin] = {}
    for item in items:
        first = kept.setdefault(identity(item), item)
        if content(first) != content(item):
            raise InputError(
                f"Expected one result for {item.setting}, weights "
                f"{sanitized(item.record.target.fingerprint)}. Received: two that contradict each "
                f"other, in {first.source.file} and {item.source.file}."
            )
    return list(kept.values())


def _identity(item: Result) -> Hashable:
    """What identifies a result."""
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
        record.attack_key,
        record.epsilon,
        None if clean else record.seed,
    )


def _verdict(item: Result) -> list[list[int]]:
    """The outcome in a record, without wall time and versions."""
    return item.record.correct


def _measured(item: Measurement) -> Hashable:
    """What identifies a measurement of diversity."""
    record = item.record
    images = record.data["fingerprint"]
    return (item.dataset, images, item.setting, item.seed, record.target.fingerprint, record.tap)


def _measures(item: Measurement) -> dict[str, Any]:
    """The measurements in a record of diversity, without wall time and versions."""
    names = ("cka", "unbiased_cka", "transfer", "gradient_cosines")
    return {name: getattr(item.record, name) for name in names}


def _check_equal(
    group: Sequence[SomeOrigin], what: str, value: Callable[[SomeOrigin], object]
) -> None:
    """Raises unless a value is the same for all."""
    first = group[0]
    for item in group[1:]:
        if value(item) != value(first):
            raise InputError(
                f"Expected one {what} in a table. Received: {value(first)!r} "
                f"({first.source.file}), {value(item)!r} ({item.source.file})."
            )


def _check_copies(group: Sequence[Origin]) -> None:
    """Raises if one name stands for two copies of a data set."""
    known = [item for item in group if item.record.data.get("dataset_fingerprint") is not None]
    if known:
        what = f"copy of {known[0].dataset}"
        _check_equal(known, what, lambda item: item.record.data["dataset_fingerprint"])


def _check_settings(group: Sequence[Origin]) -> None:
    """Raises if targets of one setting differ in more than their seeds, or of one seed at all."""
    for setting, alike in _grouped(group, lambda item: item.setting):
        for seed, same in _grouped(alike, lambda item: item.seed):
            weights = f"set of weights for {setting}" + (
                f", seed {seed}" if seed is not None else ""
            )
            _check_equal(same, weights, lambda item: item.record.target.fingerprint)
        first = alike[0]
        for item in alike[1:]:
            difference = _difference(_configuration(first), _configuration(item))
            if difference:
                name, there, here = difference
                raise InputError(
                    f"Expected targets of {setting} that differ only in their seeds. Received: "
                    f"{name} {there!r} ({first.source.file}), {here!r} ({item.source.file})."
                )


def _configuration(item: Origin) -> dict[str, Any] | None:
    """The configuration of a target as a JSON value, to compare field by field."""
    config = item.record.target.config
    return config.to_json() if config else None


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


def _brief(value: object) -> object:
    """A value short enough for a message."""
    return "{...}" if isinstance(value, Mapping) else value


def _check_protocol(group: Sequence[Result], what: str) -> None:
    """Raises unless records of one protocol were made in the same way.

    A target may lack results that others have, which are then shown as not run. It must not have
    different ones instead.
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
        of_attack = f"hyperparameters of {attack} ({what})"
        _check_nested(same, of_attack, lambda item: item.record.attack_key)


def _check_nested(group: Sequence[Result], what: str, value: Callable[[Result], Hashable]) -> None:
    """Raises if each of two targets has a value that the other lacks."""
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


def _listed(values: Iterable[object]) -> str:
    """Values listed in a message."""
    return ", ".join(sorted(map(str, values)))
