"""What a run is: to and from JSON, older formats and newer ones, what is malformed."""

import dataclasses
import json
import subprocess
import sys

import pytest
from harness.run_configs import run_config

from parl_tf.defences import METHODS
from parl_tf.defences.former_arguments import FORMER_ARGUMENTS
from parl_tf.errors import ExistingRunError, InputError, UnreadableFileError
from parl_tf.files import write_json
from parl_tf.training.config import RunConfig, Start
from parl_tf.training.folders import CONFIG, begin_run, read_config
from parl_tf.training.migration import FORMAT
from parl_tf.training.recipes import AUTHORS, recipe_for

FULL = run_config(
    "parl",
    7,
    recipe={"decay_at": (0.5, 0.75)},
    arguments={"num_layers": 7, "adversarial_training": {"epsilon": 0.03}},
    start_from=Start(run="runs/1", method="unprotected", seed=3),
    deterministic=True,
    devices=2,
    versions={"keras": "3.15.1"},
    commit="f00d-dirty",
)
NOTHING = object()


@pytest.mark.parametrize("method", AUTHORS)
def test_a_configuration_returns_from_json_whole(method):
    for config in (
        dataclasses.replace(
            FULL,
            method=method,
            recipe=recipe_for(method),
            arguments={**FORMER_ARGUMENTS.get(method, {}), **FULL.arguments},
        ),
        run_config(method, arguments=FORMER_ARGUMENTS.get(method)),
    ):
        text = json.dumps(config.to_json(), allow_nan=False)
        assert RunConfig.from_json(json.loads(text)) == config
        assert json.dumps(RunConfig.from_json(json.loads(text)).to_json()) == text
        assert json.loads(text)["format"] == FORMAT


def changed(path, value):
    """The JSON value of a configuration with one entry replaced or, by NOTHING, removed."""
    whole = json.loads(json.dumps(FULL.to_json()))
    *parents, last = path.split(".")
    inner = whole
    for name in parents:
        inner = inner[name]
    if value is NOTHING:
        del inner[last]
    else:
        inner[last] = value
    return whole


MALFORMED = {
    **{name: [NOTHING, None] for name in ("method", "arguments", "num_members", "seed")},
    **{name: [NOTHING, None, 3] for name in ("recipe", "dataset")},
    "start_from": [NOTHING, "runs/1", {}],
    "start_from.run": [NOTHING, "", 1],
    "start_from.weights": ["best"],
    "format": [NOTHING, "2", 0, True, None],
    "method": ["", ["parl"], NOTHING],
    "seed": [-1, 2**31, 0.5, True],
    "num_members": [1, 10**9, "3"],
    "deterministic": [NOTHING, 1, "no"],
    "devices": [NOTHING, 0, 257, True],
    "versions": [NOTHING, [], "3.15"],
    "versions.keras": [3.15],
    "commit": [NOTHING, "", 7],
    "arguments.seed": [8],
    "recipe.network": [NOTHING, None],
    "recipe.epochs": [NOTHING, "200", 0],
    "recipe.momentum": [0.9],
    "dataset.name": [NOTHING, None],
    "dataset.fingerprint": [NOTHING, 3],
    "dataset.train_examples": [NOTHING, 0, "all"],
    "dataset.validation_examples": [NOTHING, -1],
    "dataset.seed": [NOTHING, "0"],
    "dataset.test_examples": [10_000],
    "accuracy": [0.9],
}


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, values in MALFORMED.items() for value in values]
)
def test_a_malformed_file_is_refused_and_the_field_named(tmp_path, path, value):
    write_json(tmp_path / CONFIG, changed(path, value))
    with pytest.raises(UnreadableFileError, match=path.split(".")[-1]) as refused:
        read_config(tmp_path)
    assert str(tmp_path / CONFIG) in str(refused.value)


@pytest.mark.parametrize("value", [None, 1, "parl", [], [FULL.to_json()]])
def test_other_json_is_no_configuration(value):
    with pytest.raises(InputError, match="Expected the configuration of a run"):
        RunConfig.from_json(value)


def test_a_newer_format_is_refused_with_what_to_do(tmp_path):
    newer = {**FULL.to_json(), "format": FORMAT + 1, "schedule": "what comes later"}
    write_json(tmp_path / CONFIG, newer)
    said = f"Received: {FORMAT + 1}, written by a newer version. Update parl_tf"
    with pytest.raises(UnreadableFileError, match=said):
        read_config(tmp_path)
    with pytest.raises(ExistingRunError, match=said):
        begin_run(tmp_path, FULL)
    assert json.loads((tmp_path / CONFIG).read_text()) == newer


@pytest.mark.parametrize("method", METHODS)
def test_arguments_that_came_later_are_as_they_were_before(method):
    """In every format: adding an argument is no new one."""
    document = run_config(method).to_json()
    former = METHODS[method].former_arguments
    assert former == FORMER_ARGUMENTS.get(method, {})
    given = {"seed": 0, "adversarial_training": None}
    for form in (with_shifts({**document, "format": 1}, 4), document):
        assert RunConfig.from_json(form).arguments == {**former, **given}
    chosen = dict.fromkeys(former, "chosen")
    document["arguments"].update(chosen)
    assert RunConfig.from_json(document).arguments == {**given, **chosen}


@pytest.mark.parametrize("pixels", [0, 4, 999])
def test_shifts_of_format_2_are_crops_with_a_black_gap(pixels):
    now = run_config("parl", 3, recipe={"augmentation": f"black-crops-{pixels}"})
    assert RunConfig.from_json(with_shifts({**now.to_json(), "format": 2}, pixels)) == now


@pytest.mark.parametrize("form", [1, 2])
@pytest.mark.parametrize("pixels", [NOTHING, None, -1, 1000, "4", True, 4.0])
def test_malformed_shifts_are_named(form, pixels):
    document = with_shifts({**FULL.to_json(), "format": form}, pixels)
    if pixels is NOTHING:
        del document["recipe"]["max_shift"]
    with pytest.raises(InputError, match="Expected .*recipe.max_shift"):
        RunConfig.from_json(document)


def with_shifts(document, pixels):
    """A document of format 1 or 2, whose recipe had a `max_shift` in place of an augmentation."""
    recipe = {**document["recipe"], "max_shift": pixels}
    del recipe["augmentation"]
    return {**document, "recipe": recipe}


def test_format_1_is_completed_with_what_was_done_before_its_fields_were_there():
    now = run_config(
        "parl",
        3,
        recipe={"augmentation": "black-crops-4"},
        arguments={"num_layers": 7},
        dataset={"seed": None},
    )
    first = {**now.to_json(), "format": 1}
    for name in ("start_from", "deterministic", "devices", "commit"):
        del first[name]
    del first["dataset"]["seed"]
    for name in ("penalized", "pixel_deviation"):
        del first["recipe"][name]
    first = with_shifts(first, 4)
    assert RunConfig.from_json(first) == now
    changed = {**first, "devices": 2, "recipe": {**first["recipe"], "penalized": "all"}}
    found = RunConfig.from_json(changed)
    assert (found.devices, found.recipe.penalized) == (2, "all")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"versions": {}, "commit": None}, []),
        ({"method": "adp"}, ["method"]),
        ({"arguments": {"seed": 7}}, ["arguments"]),
        ({"devices": 1, "deterministic": False}, ["deterministic", "devices"]),
        ({"recipe": recipe_for("gal"), "start_from": None}, ["recipe", "start_from"]),
    ],
)
def test_runs_differ_in_all_but_versions_and_commit(change, names):
    assert FULL.differences(dataclasses.replace(FULL, **change)) == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arguments": {"epsilon": object()}}, "arguments to be made of JSON values"),
        ({"arguments": {1: 2}}, "arguments to be a JSON object"),
        ({"recipe": {"epochs": 3}}, "recipe to be Recipe"),
        ({"start_from": {"run": "start"}}, "start_from to be Start or None"),
        ({"num_members": 1}, "num_members to be an integer from 2"),
    ],
)
def test_what_no_run_can_be_is_refused_when_it_is_made(change, message):
    with pytest.raises(InputError, match=f"Expected {message}"):
        dataclasses.replace(FULL, **change)


def test_a_configuration_is_not_changed_by_its_json_or_what_it_was_made_of():
    arguments = {"seed": 7, "adversarial_training": {"epsilon": 0.03}}
    config = dataclasses.replace(FULL, arguments=arguments)
    arguments["adversarial_training"]["epsilon"] = 1.0
    config.to_json()["arguments"]["adversarial_training"]["epsilon"] = 2.0
    assert config.arguments["adversarial_training"] == {"epsilon": 0.03}


def test_reading_a_configuration_imports_no_tensorflow():
    code = (
        "import sys, parl_tf_tools\nparl_tf_tools.is_tool = True\n"
        "import parl_tf.results.files, parl_tf.results.settings, parl_tf.training.config\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
