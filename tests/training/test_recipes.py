import dataclasses
import json

import pytest

from parl_tf.defences import METHODS
from parl_tf.errors import InputError
from parl_tf.models import NETWORKS
from parl_tf.training.recipe import Recipe
from parl_tf.training.recipes import AUTHORS, FAST, recipe_for


def test_every_recipe_is_of_a_method_and_a_network_that_there_are():
    assert set(AUTHORS) <= set(METHODS)
    assert {recipe.network for recipe in AUTHORS.values()} <= set(NETWORKS)


def test_the_paper_trains_all_alike():
    recipes = {recipe_for(method, "paper") for method in METHODS}
    assert recipes == {Recipe()}
    (recipe,) = recipes
    assert (recipe.optimizer, recipe.learning_rate, recipe.decay_at) == ("adam", 1e-3, None)
    assert recipe_for("a method that was just added") == recipe


@pytest.mark.parametrize("method", [*METHODS, "a method that was just added"])
def test_fast_trains_all_alike_on_all_images(method):
    from_scratch = recipe_for(method, "fast", start_epochs=None, epochs=FAST.epochs)
    assert from_scratch == FAST
    assert FAST.epochs <= 15
    assert FAST.validation_fraction == 0
    adversarial = recipe_for(method, "fast", adversarial_training=True)
    starts = {"dverge": 4, "trs": 4}
    for recipe, more in (
        (recipe_for(method, "fast"), starts.get(method)),
        (adversarial, starts.get(method, 4)),
    ):
        if more is None:
            assert recipe == FAST
        else:
            assert recipe == dataclasses.replace(FAST, epochs=more, start_epochs=FAST.epochs)
            assert recipe.of_start == FAST


def test_with_fast_every_method_that_needs_a_start_adds_epochs_to_it():
    for method, kind in METHODS.items():
        if kind.needs_start:
            assert recipe_for(method, "fast").start_epochs == FAST.epochs


@pytest.mark.parametrize("name", ["authors", "paper"])
@pytest.mark.parametrize("method", METHODS)
def test_other_recipes_do_not_depend_on_adversarial_training(method, name):
    recipe = recipe_for(method, name)
    assert recipe_for(method, name, adversarial_training=True) == recipe
    assert recipe.start_epochs is None
    assert recipe.of_start == recipe


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("adp", {"optimizer": "adam", "epochs": 200, "batch_size": 64, "network": "resnet20"}),
        ("gal", {"optimizer": "adam", "noise_stddev": 0.045, "network": "resnet20-leaky-relu"}),
        ("dverge", {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 200, "batch_size": 128}),
        ("dverge", {"network": "resnet20-shortcut-batch-norm"}),
        ("trs", {"optimizer": "adam", "epochs": 120, "learning_rate": 1e-3}),
        ("guardian", {"epochs": 50, "batch_size": 64, "kernel_penalty": 0.0}),
        ("guardian", {"network": "resnet20-bare-stem", "decay_at": (0.5, 0.8)}),
        ("adp", {"decay_at": (101 / 200, 151 / 200), "penalized": "convolutions"}),
        ("trs", {"network": "resnet20-shortcut-batch-norm", "pixel_deviation": "image"}),
        *((m, {"kernel_penalty": 5e-5, "penalized": "all"}) for m in ("gal", "dverge", "trs")),
        *((m, {"augmentation": "black-crops-4"}) for m in ("gal", "dverge", "trs")),
        *((m, {"augmentation": "shifts"}) for m in ("unprotected", "parl")),
        ("adp", {"augmentation": "bilinear-shifts"}),
        ("guardian", {"augmentation": "edge-crops-4"}),
    ],
)
def test_authors_recipes(method, expected):
    found = dataclasses.asdict(recipe_for(method))
    assert {key: found[key] for key in expected} == expected


def test_changes_replace_single_values():
    recipe = recipe_for("guardian", epochs=3, network="resnet20")
    assert (recipe.epochs, recipe.network, recipe.batch_size) == (3, "resnet20", 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"optimizer": "adamm"}, "Did you mean adam"),
        ({"decay_at": (0.5, 0.5)}, "decay_at"),
        ({"decay_at": (0.0,)}, "decay_at"),
        ({"decay_at": (0.5, 1.0)}, "decay_at"),
        ({"start_epochs": 0}, "start_epochs of at least 1"),
        ({"start_epochs": 2.5}, "start_epochs to be an integer"),
        ({"warm_up": 1.0}, r"warm_up in \[0, 1\). Received: 1.0"),
        ({"warm_up": -0.1}, "warm_up in"),
        ({"warm_up": float("nan")}, "warm_up in"),
        ({"warm_up": 0.1, "decay_at": (0.5,)}, "warm_up only with decay_at=None"),
        ({"warm_up": 0.1, "decay_at": ()}, "warm_up only with decay_at=None"),
        ({"validation_fraction": 1.0}, "validation_fraction in"),
        ({"weight_decay": -1e-4}, "weight_decay"),
        ({"annealing": "linearly"}, "Did you mean linear"),
        ({"optimizer": "nesterow"}, "Did you mean nesterov"),
        ({"penalized": "kernels"}, "Unknown penalized"),
        ({"pixel_deviation": "images"}, "Did you mean image"),
        ({"augmentation": "shift"}, "Did you mean shifts"),
        ({"augmentation": "black-crops-1000"}, "Did you mean black-crops-4"),
        ({"augmentation": "edge-crops-04"}, "Unknown augmentation"),
        ({"augmentation": "shifts-2"}, "Unknown augmentation"),
        ({"augmentation": None}, "Unknown augmentation"),
    ],
)
def test_refuses_bad_values(arguments, message):
    with pytest.raises(InputError, match=message):
        Recipe(**arguments)


def test_refuses_an_unknown_recipe():
    with pytest.raises(InputError, match="Did you mean paper"):
        recipe_for("parl", "papers")


@pytest.mark.parametrize("method", AUTHORS)
def test_what_is_written_of_a_recipe_is_enough_to_make_it_again(method):
    recipe = recipe_for(method)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", "3"),
        ("epochs", 2.0),
        ("batch_size", True),
        ("optimizer", 1),
        ("learning_rate", None),
        ("learning_rate", float("nan")),
        ("learning_rate", 10**400),
        ("decay_at", 0.5),
        ("decay_at", ["0.5"]),
        ("network", None),
        ("kernel_penalty", "none"),
        ("weight_decay", None),
        ("warm_up", None),
        ("annealing", 1),
        ("start_epochs", 2.5),
        ("start_epochs", True),
        ("validation_fraction", "0.1"),
        ("noise_stddev", float("inf")),
        ("augmentation", 4),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(field, value):
    written = {**Recipe().to_json(), field: value}
    with pytest.raises(InputError, match=f"Expected recipe.{field} to be"):
        Recipe.from_json(written)
