"""Evaluation of other models on adversarial examples that were saved earlier."""

import os
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from parl_tf.data.examples import Split
from parl_tf.data.own import Examples
from parl_tf.errors import InputError
from parl_tf.evaluation.arguments import named_models
from parl_tf.evaluation.examples import grouped, load_images, read_examples
from parl_tf.evaluation.judging import Judge, Verdict, judge_all, measured
from parl_tf.evaluation.robustness import check_models, model_cards
from parl_tf.provenance import fingerprint, versions
from parl_tf.results.files import ResultStore
from parl_tf.results.records import ModelCard, Record
from parl_tf.training.config import RunConfig


def evaluate_examples(
    targets: Mapping[str, keras.Model] | keras.Model,
    folder: str | os.PathLike,
    data: Examples,
    *,
    configs: Mapping[str, RunConfig | None] | None = None,
    out: str | os.PathLike | None = None,
) -> list[Record]:
    """Measures models on adversarial examples that were saved earlier.

    Args:
        targets: As for `evaluate_robustness`.
        folder: The folder `examples_out` of `evaluate_cases`.
        data: The clean images and labels that they were crafted from, in the same order.
        configs: Configurations of the runs that trained the targets, by name.
        out: Results file, as for `evaluate_cases`.

    Returns:
        A record for each target on clean images, then for each attack and target: white box if
        the examples were crafted on the target itself, otherwise black box.

    Raises:
        InputError: Examples of other images than `data`, outside their balls, or crafted on two
            models of one name; or targets that `evaluate_robustness` refuses.
        MissingFileError: `folder` holds no examples.
        UnreadableFileError: Examples that are damaged or were changed.
        ExistingRunError: `out` holds another evaluation, or cannot be written.

    Example:
        >>> import os, tempfile
        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> first = keras.Sequential([keras.Input((8, 8, 3)), mean])
        >>> doubled = keras.layers.Dense(3, kernel_initializer=keras.initializers.Identity(2.0))
        >>> second = keras.Sequential([keras.Input((8, 8, 3)), mean, doubled])
        >>> data = np.full((4, 8, 8, 3), [0.6, 0.5, 0.4], "float32"), [0] * 4
        >>> with tempfile.TemporaryDirectory() as work:
        ...     folder = os.path.join(work, "examples")
        ...     _ = parl_tf.evaluate_robustness(
        ...         {"first": first}, parl_tf.FGSM(), 0.1, data, examples_out=folder
        ...     )
        ...     records = parl_tf.evaluate_examples({"second": second}, folder, data)
        >>> [(record.threat_model, record.accuracy) for record in records]
        [('clean', 1.0), ('black_box', 0.0)]
    """
    targets = named_models("targets", targets)
    common, sets = read_examples(folder)
    examples = check_models(targets, data, {})
    expected, here = common["data"]["fingerprint"], fingerprint(examples.images, examples.labels)
    if here != expected:
        raise InputError(
            "Expected the images that the examples were crafted from, of fingerprint "
            f"{expected}. Received: images of fingerprint {here}."
        )
    crafted_on = {(found.crafted_on.name, found.crafted_on.fingerprint) for found in sets}
    if len({name for name, _ in crafted_on}) < len(crafted_on):
        raise InputError(
            f"Expected examples crafted on models of different names. "
            f"Received: {sorted(crafted_on)}."
        )
    cards = model_cards(targets, configs)
    common = {**common, "protocol": "saved-examples", "versions": versions()}
    plan = {
        **common,
        "targets": {name: card.fingerprint for name, card in cards.items()},
        "sets": [found.sha256 for found in sets],
    }
    store = ResultStore(out, plan)
    if store.finished:
        return store.records
    judges = {name: Judge(model) for name, model in targets.items()}
    # The images of each restart, what they were crafted on, and the attack for the record.
    clean: dict[str, Any] = {"attack": "clean", "hyperparameters": {}, "epsilon": 0.0}
    shows: list[tuple] = [([examples.images], None, clean)]
    for group in grouped(sets):
        images = [load_images(folder, found, examples.images) for found in group]
        attack = {name: getattr(group[0], name) for name in clean}
        shows.append((images, group[0].crafted_on, attack))
    for restarts, crafted_on, attack in shows:
        began = time.monotonic()
        verdicts = [_judge(judges, examples, images, common["batch_size"]) for images in restarts]
        seconds = time.monotonic() - began
        store.put(
            Record(
                target=card,
                seconds=seconds,
                **_threat(card, crafted_on),
                **attack,
                **measured([verdict[name] for verdict in verdicts]),
                **common,
            )
            for name, card in cards.items()
        )
    store.finish()
    return store.records


def _judge(
    judges: Mapping[str, Judge], examples: Split, images: np.ndarray, batch_size: int
) -> dict[str, Verdict]:
    """Verdicts on saved images."""
    return judge_all(
        judges, examples, lambda batch, first: images[first : first + len(batch)], batch_size
    )


def _threat(target: ModelCard, crafted_on: ModelCard | None) -> dict[str, Any]:
    """Fields of a record on the threat model, for a target shown examples crafted on a model."""
    if crafted_on is None:
        return {"threat_model": "clean", "surrogate": None}
    if crafted_on.fingerprint == target.fingerprint:
        return {"threat_model": "white_box", "surrogate": None}
    return {"threat_model": "black_box", "surrogate": crafted_on}
