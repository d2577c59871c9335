import pytest

import parl_tf
from parl_tf.errors import ExistingRunError, InputError
from parl_tf.training import Recipe, build_ensemble, train

DIGITS = parl_tf.load_dataset("digits", train_examples=64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
    ],
)
def test_recipe_refuses_bad_numbers(arguments, message):
    with pytest.raises(InputError, match=message):
        Recipe(**arguments)


def test_no_two_seeds_share_a_member():
    ensembles = [build_ensemble("unprotected", DIGITS, seed=seed) for seed in (0, 1, 2)]
    stems = [m.get_weights()[0].tobytes() for ensemble in ensembles for m in ensemble.members]
    assert len(set(stems)) == 9
    again = build_ensemble("parl", DIGITS, seed=1, num_layers=3)
    assert [m.get_weights()[0].tobytes() for m in again.members] == stems[3:6]


def test_members_normalise_with_the_statistics_of_the_data_set():
    member = build_ensemble("unprotected", DIGITS, num_members=2).members[0]
    assert any(type(layer).__name__ == "Normalization" for layer in member.layers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "parll"}, "Unknown method"),
        ({"num_members": 1}, "at least two members"),
        ({"recipe": Recipe(batch_size=65)}, "batch_size from 1 to 64"),
        ({"method": "parl", "arguments": {"num_layers": 20}}, "num_layers from 1 to 19"),
    ],
)
def test_bad_arguments_leave_nothing_behind(tmp_path, changes, message):
    arguments = {"method": "unprotected", "recipe": Recipe(batch_size=32), **changes}
    with pytest.raises(InputError, match=message):
        train(arguments.pop("method"), DIGITS, tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused_before_anything_is_done(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExistingRunError):
        train("unprotected", DIGITS, tmp_path)
