"""Clean, black-box and white-box accuracy of models, as result records."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from parl_tf.arguments import check_at_least, check_choice, check_seed
from parl_tf.attacks.base import Attack
from parl_tf.data.examples import Split, array_of, check_examples
from parl_tf.data.own import Examples, as_arrays
from parl_tf.defences.base import Ensemble
from parl_tf.errors import InputError
from parl_tf.evaluation.arguments import attack_list, case_list, named_models, strengths
from parl_tf.evaluation.cases import Case, CaseRunner, Progress, ProgressCount, crafting
from parl_tf.evaluation.examples import ExampleWriter
from parl_tf.evaluation.judging import Judge
from parl_tf.graphs.classifiers import check_answers, check_logits_classifier
from parl_tf.provenance import fingerprint, versions, weights_fingerprint
from parl_tf.results.files import ResultStore
from parl_tf.results.records import ModelCard, Record
from parl_tf.training.config import RunConfig


def evaluate_robustness(
    targets: Mapping[str, keras.Model] | keras.Model,
    attacks: Sequence[Attack] | Attack,
    epsilons: Sequence[float] | float,
    data: Examples,
    *,
    surrogates: Mapping[str, keras.Model] | keras.Model | None = None,
    **options: Any,
) -> list[Record]:
    """Measures models on clean images and under attack.

    With surrogates the threat model is black box: examples are crafted once on each surrogate and
    shown to every target. Without, it is white box: crafted on each target itself. A target
    answers with its members' majority vote; a single classifier is an ensemble of one.

    Args:
        targets: Models to evaluate, by name: an `Ensemble` of any method, or any functional Keras
            classifier of images that returns logits. A single model goes by its own name.
        attacks: Attacks to run, or a single one.
        epsilons: Radii of the L-infinity ball, in pixel units of [0, 1], or a single one.
        data: Images (n, height, width, channels), pixels in [0, 1], and integer labels (n,) or
            (n, 1): a pair of arrays, a `parl_tf.Split`, the test part of what `load_dataset`
            returns, or a finite `tf.data.Dataset` or other iterable of such pairs, batches or
            single examples, which is read into memory.
        surrogates: Models to craft examples on, by name, or a single one; None for white box.
        **options: Further arguments of `evaluate_cases`.

    Returns:
        A record for each target on clean images, then for each attack, epsilon, surrogate and
        target.

    Raises:
        InputError: Nothing to evaluate; models that do not fit the images or return
            probabilities; pixels outside [0, 1], labels outside the classes, epsilons outside
            (0, 1]; endless data. Everything is checked before the first attack.

    Example:
        A classifier that says which colour of an image is brightest:

        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), mean], name="brightest")
        >>> images = np.full((4, 8, 8, 3), [0.6, 0.5, 0.4], "float32")
        >>> attacks = [parl_tf.FGSM(), parl_tf.PGD(num_steps=20, restarts=2)]
        >>> records = parl_tf.evaluate_robustness(model, attacks, [0.01, 0.1], (images, [0] * 4))
        >>> for record in records:
        ...     print(record.attack, record.epsilon, record.worst_case_accuracy)
        clean 0.0 1.0
        fgsm 0.01 1.0
        fgsm 0.1 0.0
        pgd 0.01 1.0
        pgd 0.1 0.0
    """
    threat_model = "white_box" if surrogates is None else "black_box"
    radii = strengths(epsilons)
    cases = [Case(threat_model, attack, e) for attack in attack_list(attacks) for e in radii]
    return evaluate_cases(targets, cases, data, surrogates=surrogates, **options)


def evaluate_cases(
    targets: Mapping[str, keras.Model] | keras.Model,
    cases: Sequence[Case] | Case,
    data: Examples,
    *,
    surrogates: Mapping[str, keras.Model] | keras.Model | None = None,
    protocol: str = "custom",
    seed: int = 0,
    batch_size: int = 250,
    out: str | os.PathLike | None = None,
    examples_out: str | os.PathLike | None = None,
    data_description: Mapping[str, Any] | None = None,
    configs: Mapping[str, RunConfig | None] | None = None,
    on_progress: Progress | None = None,
) -> list[Record]:
    """Measures models on clean images and in given cases: attacks, strengths and threat models.

    Args:
        targets: As for `evaluate_robustness`.
        cases: What to run, or a single case.
        data: As for `evaluate_robustness`.
        surrogates: Models that examples of black-box cases are crafted on, by name.
        protocol: Name of the protocol that the cases make up, for the records.
        seed: Seed of the attacks' draws.
        batch_size: Images at a time; memory is bounded by it.
        out: Results file, written after every restart. If it exists and is of the same
            evaluation, the evaluation continues where it stopped.
        examples_out: Folder to save the adversarial examples to, for `evaluate_examples`.
        data_description: Description of the images, for the records.
        configs: Configurations of the runs that trained targets and surrogates, by name.
        on_progress: Called with a description and the fraction done, in [0, 1].

    Returns:
        A record for each target on clean images, then for each case, surrogate and target.

    Raises:
        InputError: As for `evaluate_robustness`, and a black-box case without surrogates.
        ExistingRunError: `out` holds another evaluation, or cannot be written.
        UnreadableFileError: `out` is not a results file.

    Example:
        >>> import keras, numpy as np, parl_tf
        >>> mean = keras.layers.GlobalAveragePooling2D()
        >>> target = keras.Sequential([keras.Input((8, 8, 3)), mean])
        >>> surrogate = keras.models.clone_model(target)
        >>> images = np.full((4, 8, 8, 3), [0.6, 0.5, 0.4], "float32")
        >>> black_box = parl_tf.Case("black_box", parl_tf.FGSM(), 0.1)
        >>> cases = [black_box, parl_tf.Case("white_box", parl_tf.BIM(), 0.1)]
        >>> records = parl_tf.evaluate_cases(
        ...     {"target": target}, cases, (images, [0] * 4), surrogates={"surrogate": surrogate}
        ... )
        >>> [(record.threat_model, record.accuracy) for record in records]
        [('clean', 1.0), ('black_box', 0.0), ('white_box', 0.0)]
    """
    targets = named_models("targets", targets)
    surrogates = {} if surrogates is None else named_models("surrogates", surrogates)
    cases = case_list(cases)
    examples = check_models(targets, data, surrogates)
    _check_cases(cases, surrogates, seed, batch_size)
    cards = model_cards({**surrogates, **targets}, configs)
    common: dict[str, Any] = {
        "protocol": protocol,
        "seed": int(seed),
        "batch_size": int(batch_size),
        "data": {
            **(data_description or {}),
            "num_examples": len(examples),
            "fingerprint": fingerprint(examples.images, examples.labels),
        },
        "versions": versions(),
    }
    plan = {
        **common,
        "targets": {name: cards[name].fingerprint for name in targets},
        "surrogates": {name: cards[name].fingerprint for name in surrogates},
        "cases": [
            [case.threat_model, case.attack.name, dataclasses.asdict(case.attack), case.epsilon]
            for case in cases
        ],
    }
    store = ResultStore(out, plan)
    writer = ExampleWriter(examples_out, examples, common) if examples_out else None
    if store.finished and writer is None:
        return store.records
    work = list(crafting(cases, targets, surrogates))
    total = sum(part.case.attack.restarts for part in work)
    runner = CaseRunner(
        examples=examples,
        cards=cards,
        judges={name: Judge(model) for name, model in targets.items()},
        common=common,
        store=store,
        writer=writer,
        progress=ProgressCount(on_progress, total * len(examples)),
    )
    runner.judge_clean()
    for part in work:
        runner.run(part)
    store.finish()
    return store.records


def model_cards(
    models: Mapping[str, keras.Model], configs: Mapping[str, RunConfig | None] | None
) -> dict[str, ModelCard]:
    """Descriptions of models for records, by name, with their runs' configurations where known."""
    configs = configs or {}
    return {
        name: ModelCard(name=name, fingerprint=weights_fingerprint(model), config=configs.get(name))
        for name, model in models.items()
    }


def check_models(
    targets: Mapping[str, keras.Model],
    data: Examples,
    surrogates: Mapping[str, keras.Model],
) -> Split:
    """Checks that models and images fit each other, and returns the examples.

    Raises:
        InputError: As for `evaluate_robustness`.
    """
    if not targets:
        raise InputError(f"Expected targets as a mapping of name to model. Received: {targets!r}.")
    if twice := set(targets) & set(surrogates):
        raise InputError(
            f"Expected surrogates that are not targets. Received: {sorted(twice)}. Give different "
            "models different names: {'target': model}."
        )
    models = {**targets, **surrogates}
    shapes = {}
    for name, model in models.items():
        if isinstance(model, Ensemble):
            shapes[name] = (model.image_shape, model.num_classes)
        else:
            check_logits_classifier(model)
            check_answers(model)
            shapes[name] = (model.input_shape[1:], model.output_shape[-1])
    if len(set(shapes.values())) > 1:
        raise InputError(
            f"Expected models of one image shape and number of classes. Received: {shapes}."
        )
    image_shape, num_classes = next(iter(shapes.values()))
    images, labels = as_arrays(data, "test")
    shape = array_of("images", images).shape
    if len(shape) == 4 and shape[1:] != tuple(image_shape):
        raise InputError(
            f"Expected images of shape {tuple(image_shape)}, as the models take them. "
            f"Received: {shape[1:]}."
        )
    return check_examples(images, labels, num_classes)


def _check_cases(
    cases: Sequence[Case], surrogates: Mapping[str, keras.Model], seed: int, batch_size: int
) -> None:
    """Raises InputError unless cases can be run."""
    for case in cases:
        check_choice("threat model of a case", case.threat_model, ("black_box", "white_box"))
        case.attack.check_epsilon(case.epsilon)
    if not surrogates and any(case.threat_model == "black_box" for case in cases):
        raise InputError("Expected surrogates to craft examples on. Received: none.")
    check_seed(seed)
    check_at_least("batch_size", batch_size, 1)
