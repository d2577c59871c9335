"""Clean, black-box and white-box accuracy of models, as result records."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from parl_tf.attacks.base import Attack
from parl_tf.classifiers import check_logits_classifier
from parl_tf.data import Split, check_examples, check_seed
from parl_tf.defences.base import Ensemble
from parl_tf.errors import InputError
from parl_tf.fusion import log_mean_probability, majority_vote
from parl_tf.records import Record
from parl_tf.runs import versions

Progress = Callable[[str, float], None]


def evaluate_robustness(
    targets: Mapping[str, keras.Model],
    attacks: Sequence[Attack],
    epsilons: Sequence[float],
    data: Split | tuple[Any, Any],
    *,
    surrogate: keras.Model | None = None,
    surrogate_name: str = "surrogate",
    seed: int = 0,
    batch_size: int = 250,
    data_description: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> list[Record]:
    """Measures models on clean images and under attack.

    With a surrogate the threat model is black box: examples are crafted once, on the surrogate,
    and shown to every target. Without one it is white box: crafted on each target itself. A
    target answers with its members' majority vote; a single classifier is an ensemble of one.

    Args:
        targets: Models to evaluate, by name: an `Ensemble` of any method, or any functional Keras
            classifier of images that returns logits.
        attacks: Attacks to run.
        epsilons: Radii of the L-infinity ball, in pixel units of [0, 1].
        data: Images (n, height, width, channels), pixels in [0, 1], and integer labels (n,).
        surrogate: Model to craft examples on; None for white box.
        surrogate_name: Its name in the records.
        seed: Seed of the random starts.
        batch_size: Images at a time; memory is bounded by it.
        data_description: What the images are, for the records.
        on_progress: Called with a description and the part done, in [0, 1], as work goes on.

    Returns:
        A record for each target on clean images, then for each attack, epsilon and target.

    Raises:
        InputError: Nothing to evaluate; models that do not fit the images or return
            probabilities; images, labels or epsilons outside their values. All is checked before
            the first attack.
    """
    examples = _check_arguments(targets, attacks, epsilons, data, surrogate, seed, batch_size)
    judges = {name: _Judge(model) for name, model in targets.items()}
    # Who crafts, and for whom: the surrogate for all, or every target for itself.
    if surrogate is not None:
        crafting = [(surrogate, judges)]
    else:
        crafting = [(model, {name: judges[name]}) for name, model in targets.items()]
    common: dict[str, Any] = {
        "seed": seed,
        "batch_size": batch_size,
        "data": {"num_examples": len(examples), **(data_description or {})},
        "versions": versions(),
    }
    total = sum(attack.restarts for attack in attacks) * len(epsilons) * len(crafting)
    progress = _Progress(on_progress, total * len(examples))

    records = []
    for name, judge in judges.items():
        began = time.monotonic()
        verdict = _judge_all({name: judge}, examples, batch_size)[name]
        records.append(
            Record(
                target=name,
                threat_model="clean",
                surrogate=None,
                attack="clean",
                hyperparameters={},
                epsilon=0.0,
                seconds=time.monotonic() - began,
                **_summarize([verdict]),
                **common,
            )
        )
    for model, judged in crafting:
        for attack in attacks:
            craft = attack.prepare(model)
            for epsilon in epsilons:
                began = time.monotonic()
                progress.say(f"{attack.name} at {epsilon:g} on {', '.join(judged)}")
                verdicts = []
                for restart in range(attack.restarts):
                    crafted = functools.partial(craft, epsilon=epsilon, seed=seed, restart=restart)
                    verdicts.append(_judge_all(judged, examples, batch_size, crafted, progress))
                seconds = time.monotonic() - began
                records.extend(
                    Record(
                        target=name,
                        threat_model="white_box" if surrogate is None else "black_box",
                        surrogate=None if surrogate is None else surrogate_name,
                        attack=attack.name,
                        hyperparameters=dataclasses.asdict(attack),
                        epsilon=float(epsilon),
                        seconds=seconds,
                        **_summarize([verdict[name] for verdict in verdicts]),
                        **common,
                    )
                    for name in judged
                )
    return records


class _Verdict(NamedTuple):
    """How a model did on some images, a bool for each.

    Attributes:
        vote_right: Whether the majority vote was right.
        mean_right: Whether the class of the highest mean probability was right.
        tied: Whether the vote was tied.
    """

    vote_right: np.ndarray
    mean_right: np.ndarray
    tied: np.ndarray


class _Judge:
    """Compares a model's answers with the labels."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._graph = tf.function(self._judge, reduce_retracing=True)

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> _Verdict:
        """Judges the model's answers on a batch."""
        finite, *verdict = self._graph(tf.constant(images), tf.constant(labels))
        if not finite:
            raise InputError(f"Expected finite logits. Model {self._model.name!r} returned NaN.")
        return _Verdict(*(part.numpy() for part in verdict))

    def _judge(self, images, labels):
        if isinstance(self._model, Ensemble):
            logits = self._model.member_logits(images, training=False)
        else:
            logits = [self._model(images, training=False)]
        winners, tied = majority_vote(logits)
        mean_winners = tf.argmax(log_mean_probability(logits), axis=-1)
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(member)) for member in logits])
        return finite, winners == labels, mean_winners == labels, tied


class _Progress:
    """Counts attacked images."""

    def __init__(self, report: Progress | None, total: int) -> None:
        self._report, self._total = report, max(total, 1)
        self._done, self._description = 0, ""

    def say(self, description: str) -> None:
        """Says what comes next."""
        self._description = description
        self.advance(0)

    def advance(self, count: int) -> None:
        """Counts `count` more images."""
        self._done += count
        if self._report:
            self._report(self._description, self._done / self._total)


def _judge_all(judges, examples, batch_size, craft=None, progress=None) -> dict[str, _Verdict]:
    """Shows the examples, or what is crafted from them, to every judge, a batch at a time."""
    parts: dict[str, list[_Verdict]] = {name: [] for name in judges}
    for first in range(0, len(examples), batch_size):
        batch = examples.take(np.arange(first, min(first + batch_size, len(examples))))
        images = batch.images
        if craft:
            images = craft(images, batch.labels, first_index=first, batch_size=batch_size)
        for name, judge in judges.items():
            parts[name].append(judge(images, batch.labels))
        if progress:
            progress.advance(len(batch))
    return {
        name: _Verdict(*map(np.concatenate, zip(*verdicts, strict=True)))
        for name, verdicts in parts.items()
    }


def _summarize(verdicts: Sequence[_Verdict]) -> dict[str, Any]:
    """What a record says of the verdicts of its restarts."""
    return {
        "correct": [verdict.vote_right.astype(int).tolist() for verdict in verdicts],
        "mean_probability_accuracy": float(np.mean([v.mean_right for v in verdicts])),
        "tie_rate": float(np.mean([v.tied for v in verdicts])),
    }


def _check_arguments(targets, attacks, epsilons, data, surrogate, seed, batch_size) -> Split:
    """Validates everything that `evaluate_robustness` is given, and returns the examples."""
    if not isinstance(targets, Mapping) or not targets:
        raise InputError(f"Expected targets as a mapping of name to model. Received: {targets!r}.")
    models = dict(targets) if surrogate is None else {**targets, "the surrogate": surrogate}
    shapes = {}
    for name, model in models.items():
        if isinstance(model, Ensemble):
            shapes[name] = (model.image_shape, model.num_classes)
        else:
            check_logits_classifier(model)
            shapes[name] = (model.input_shape[1:], model.output_shape[-1])
    if len(set(shapes.values())) > 1:
        raise InputError(
            f"Expected models of one image shape and number of classes. Received: {shapes}."
        )
    image_shape, num_classes = next(iter(shapes.values()))
    images, labels = (data.images, data.labels) if isinstance(data, Split) else data
    if np.shape(images)[1:] != tuple(image_shape):
        raise InputError(
            f"Expected images of shape {tuple(image_shape)}, as the models take them. "
            f"Received: {np.shape(images)[1:]}."
        )
    examples = check_examples(images, labels, num_classes)
    for attack in attacks:
        if not isinstance(attack, Attack):
            raise InputError(f"Expected attacks such as parl_tf.FGSM(). Received: {attack!r}.")
        for epsilon in epsilons:
            attack.check_epsilon(epsilon)
    check_seed(seed)
    if batch_size < 1:
        raise InputError(f"Expected batch_size of at least 1. Received: {batch_size}.")
    return examples
