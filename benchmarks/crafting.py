"""Adversarial examples: the package's attacks beside plain eager calls of CleverHans."""

from collections.abc import Callable, Iterator
from typing import Any

import timing

EPSILON = 0.03
_DIFFERS = 1e-5  # pixel units; a step is 600 times that


def model() -> tuple[Any, Any, Any]:
    """An ensemble of three ResNet20 as they are made, and random images with its own labels."""
    import numpy as np

    import parl_tf

    ensemble = parl_tf.Ensemble([parl_tf.resnet20(10, seed=member) for member in range(3)])
    images = np.random.default_rng(0).random((250, 32, 32, 3), dtype=np.float32)
    return ensemble, images, ensemble.predict_classes(images)


def _pairs(steps: int) -> dict[str, tuple[Any, Callable[..., Any]]]:
    """For each attack ours, and CleverHans's call as its users write it."""
    import numpy as np
    from cleverhans.tf2.attacks.basic_iterative_method import basic_iterative_method
    from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
    from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
    from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

    import parl_tf

    step = np.float32(EPSILON) / np.float32(5)
    given = {"clip_min": 0.0, "clip_max": 1.0}

    def fgsm(logits, images, labels):
        return fast_gradient_method(logits, images, EPSILON, np.inf, y=labels, **given)

    def bim(logits, images, labels):
        options = {"y": labels, "sanity_checks": False, **given}
        return basic_iterative_method(logits, images, EPSILON, step, steps, np.inf, **options)

    def mim(logits, images, labels):
        options = {"eps_iter": step, "nb_iter": steps, "decay_factor": 0.01, "y": labels, **given}
        return momentum_iterative_method(
            logits, images, eps=EPSILON, sanity_checks=False, **options
        )

    def pgd(logits, images, labels):
        options = {"y": labels, "rand_init": True, **given}
        return projected_gradient_descent(logits, images, EPSILON, step, steps, np.inf, **options)

    return {
        "fgsm": (parl_tf.FGSM(), fgsm),
        f"bim, {steps} steps": (parl_tf.BIM(num_steps=steps), bim),
        f"mim, {steps} steps": (parl_tf.MIM(num_steps=steps), mim),
        f"pgd, {steps} steps": (parl_tf.PGD(num_steps=steps), pgd),
    }


def measure(
    batch_sizes: list[int], steps: int, rounds: int, only: list[str]
) -> Iterator[dict[str, Any]]:
    """A row for every attack and batch size: ours, CleverHans's, and whether they agree."""
    import tensorflow as tf

    ensemble, all_images, all_labels = model()

    def logits(images):
        return ensemble(images, training=False)

    for batch_size in batch_sizes:
        images, labels = all_images[:batch_size], all_labels[:batch_size]
        given = tf.constant(images), tf.constant(labels)
        for name, (attack, eager) in _pairs(steps).items():
            if not timing.wanted(name, only):
                continue
            crafter = attack.prepare(ensemble)

            def ours(crafter=crafter, images=images, labels=labels, batch_size=batch_size):
                return crafter(images, labels, epsilon=EPSILON, batch_size=batch_size)

            def theirs(eager=eager, given=given):
                return eager(logits, *given).numpy()

            difference = _difference(name, ours, theirs, images)
            seconds = timing.alternate({"ours": ours, "theirs": theirs}, rounds)
            rows = {who: timing.summary(each) for who, each in seconds.items()}
            yield {
                "attack": name,
                "batch": batch_size,
                **rows["ours"],
                "images_per_s": round(1000 * batch_size / rows["ours"]["median_ms"], 2),
                "eager_cleverhans_ms": rows["theirs"]["median_ms"],
                "times_faster": round(rows["theirs"]["median_ms"] / rows["ours"]["median_ms"], 2),
                "pixels_that_differ": f"{100 * difference:.3f} %",
            }


def measure_others(
    batch_sizes: list[int], steps: int, rounds: int, only: list[str]
) -> Iterator[dict[str, Any]]:
    """A row for each of the other attacks, which CleverHans does not have."""
    import parl_tf

    ensemble, images, labels = model()
    attacks = {
        f"mi-fgsm, {steps} steps": parl_tf.MIFGSM(num_steps=steps),
        f"mdi2-fgsm, {steps} steps": parl_tf.MDI2FGSM(num_steps=steps),
        f"sgm, {steps} steps": parl_tf.SGM(num_steps=steps),
        "uniform-noise": parl_tf.UniformNoise(),
    }
    for batch_size in batch_sizes:
        calls = {}
        for name, attack in attacks.items():
            if not timing.wanted(name, only):
                continue
            crafter = attack.prepare(ensemble)
            calls[name] = lambda crafter=crafter, size=batch_size: crafter(
                images[:size], labels[:size], epsilon=EPSILON, batch_size=size
            )
        for name, seconds in timing.alternate(calls, rounds).items():
            row = timing.summary(seconds)
            per_second = round(1000 * batch_size / row["median_ms"], 2)
            yield {"attack": name, "batch": batch_size, **row, "images_per_s": per_second}


def _difference(name, ours, theirs, images):
    """Share of the pixels where the two differ, from the same start."""
    import numpy as np
    import tensorflow as tf
    from cleverhans.tf2.attacks import projected_gradient_descent as module

    draws = [np.random.default_rng((0, 0, i)).uniform(-1, 1, images.shape[1:]) for i in range(250)]
    start = np.float32(EPSILON) * np.stack(draws[: len(images)]).astype("float32")
    original = module.random_lp_vector
    module.random_lp_vector = lambda *arguments, **options: tf.constant(start)
    try:
        return float(np.mean(np.abs(ours() - theirs()) > _DIFFERS))
    finally:
        module.random_lp_vector = original
