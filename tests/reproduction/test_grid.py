import pathlib
import shlex

import pytest

from parl_tf.cli import attack, diversity, train
from parl_tf.cli.method_options import method_options
from parl_tf.errors import InputError, MissingFileError, UnreadableFileError
from parl_tf.reproduction.grid import SCALES, grid_file, plan, read_grid, select

SMALL = """
datasets = ["digits"]
seeds = [0, 1]
train = "--recipe paper"
[surrogates]
other = "--seed 1000"
[settings]
unprotected = "--method unprotected"
dverge = "--method dverge --start-from {runs}/unprotected-seed{seed}"
[attacks.black-box]
options = "--protocol paper"
surrogates = ["other"]
together = true
[attacks.white-box]
options = "--protocol white-box"
seeds = [1]
[diversity]
options = "--num-examples 10"
seeds = [0]
"""


def grid(tmp_path, text=SMALL):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return read_grid(path)


def test_jobs_of_a_grid(tmp_path):
    jobs = {job.name: job for job in plan(grid(tmp_path), "out", data_dir="data")}
    assert list(jobs) == [
        "train/digits/other",
        "train/digits/unprotected-seed0",
        "train/digits/unprotected-seed1",
        "train/digits/dverge-seed0",
        "train/digits/dverge-seed1",
        "attack/digits/black-box",
        "attack/digits/white-box-unprotected",
        "attack/digits/white-box-dverge",
        "diversity/digits/unprotected-seed0",
        "diversity/digits/dverge-seed0",
        "report",
    ]
    assert jobs["train/digits/dverge-seed1"].needs == ("train/digits/unprotected-seed1",)
    assert set(jobs["attack/digits/black-box"].needs) == {n for n in jobs if n.startswith("train")}
    assert jobs["attack/digits/white-box-dverge"].needs == ("train/digits/dverge-seed1",)
    assert set(jobs["report"].needs) == {n for n in jobs if n.startswith(("attack", "diversity"))}
    assert shlex.split(jobs["train/digits/dverge-seed1"].command) == [
        *("parl-train", "--dataset", "digits", "--data-dir", "data", "--recipe", "paper"),
        *("--seed", "1", "--method", "dverge"),
        *("--start-from", "out/digits/runs/unprotected-seed1"),
        *("--out", "out/digits/runs/dverge-seed1"),
    ]
    assert jobs["report"].output == pathlib.Path("out/report")


@pytest.mark.parametrize("scale", SCALES)
def test_every_command_of_a_scale_is_one_that_its_tool_takes(scale):
    jobs = plan(read_grid(grid_file(scale)), "out", data_dir="data")
    parsers = {"train": train.parser(), "attack": attack.parser(), "diversity": diversity.parser()}
    for job in jobs:
        if job.tool in parsers:
            given = parsers[job.tool].parse_args(job.arguments)
            assert given.out == str(job.output)
        if job.tool == "train":
            method_options(given)
        if job.tool == "attack":
            assert attack.cases_of(given)
    names = {job.name.split("/")[-1] for job in jobs if job.tool == "train"}
    for setting in ("unprotected", "adp", "gal", "dverge", "parl7", "parl5", "parl3"):
        assert {f"{setting}-seed{seed}" for seed in range(3)} <= names
    earlier = set()
    for job in jobs:
        assert set(job.needs) <= earlier
        earlier.add(job.name)


def test_select_by_kind_and_by_pattern(tmp_path):
    jobs = plan(grid(tmp_path), "out")
    assert [job.name for job in select(jobs, ["report"])] == ["report"]
    assert len(select(jobs, ["train"])) == 5
    assert [job.name for job in select(jobs, ["*/dverge-seed0"])] == [
        "train/digits/dverge-seed0",
        "diversity/digits/dverge-seed0",
    ]
    assert select(jobs, None) == jobs
    with pytest.raises(
        InputError, match="Expected a pattern that matches one of train/digits/other"
    ):
        select(jobs, ["train/cifar10/*"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [0, 1]", "seeds = []", "at least one data set, setting and seed"),
        ("seeds = [0, 1]", "seeds = [-1]", "seeds of at least 0"),
        ("seeds = [0, 1]", "seed = [0]", r"missing \['seeds'\], unknown \['seed'\]"),
        ("seeds = [0, 1]", 'seeds = "many"', "seeds of at least 0"),
        ("seeds = [0, 1]", "seeds = 3", "values of the types"),
        ('train = "--recipe paper"', 'train = "--recipe \'paper"', "No closing quotation"),
        ("{seed}", "{sead}", "sead"),
        ('["other"]', '["others"]', "Did you mean other"),
        ("seeds = [1]", "seeds = [2]", "Unknown seed"),
        ("together = true", "togther = true", "togther"),
        ("together = true", 'settings = ["dvergee"]', "Did you mean dverge"),
        ('unprotected = "', '"../x" = "', "without slashes"),
        ("[settings]", "[settings]\nnumber = 3", "values of the types"),
    ],
)
def test_refuses_a_grid_that_makes_no_sense(tmp_path, old, new, message):
    assert old in SMALL
    with pytest.raises(InputError, match=message):
        grid(tmp_path, SMALL.replace(old, new, 1))


def test_a_grid_that_is_not_there_or_not_toml(tmp_path):
    with pytest.raises(MissingFileError, match="No grid at"):
        read_grid(tmp_path / "nothing.toml")
    with pytest.raises(UnreadableFileError, match="not TOML"):
        grid(tmp_path, "datasets = [")
    with pytest.raises(InputError, match="Unknown scale. Did you mean smoke"):
        grid_file("smok")


def test_an_evaluation_of_some_settings_only(tmp_path):
    some = SMALL.replace("seeds = [1]", 'seeds = [1]\nsettings = ["dverge"]')
    names = [job.name for job in plan(grid(tmp_path, some), "out")]
    assert "attack/digits/white-box-dverge" in names
    assert "attack/digits/white-box-unprotected" not in names
