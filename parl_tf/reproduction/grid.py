"""The paper's grid of experiments: a declarative file that becomes jobs for the tools."""

import dataclasses
import fnmatch
import os
import pathlib
import shlex
import tomllib
from collections.abc import Sequence
from typing import Any

from parl_tf.arguments import check_choice
from parl_tf.errors import InputError, MissingFileError, UnreadableFileError

SCALES = ("smoke", "cpu", "paper")
_KEYS = {"datasets", "seeds", "train", "diversity", "surrogates", "settings", "attacks"}
_ENTRY_KEYS = {"options", "surrogates", "settings", "seeds", "together"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One call of a command line tool.

    Attributes:
        name: Its name, kind first: "train/cifar10/parl7-seed0".
        tool: The tool: "train", "attack", "diversity" or "report".
        arguments: The tool's arguments.
        output: The file or folder that it creates.
        needs: Names of the jobs whose output it reads.
        always: Whether to run it even if its output exists.
    """

    name: str
    tool: str
    arguments: tuple[str, ...]
    output: pathlib.Path
    needs: tuple[str, ...] = ()
    always: bool = False

    @property
    def command(self) -> str:
        """The job as a shell command."""
        return shlex.join([f"parl-{self.tool}", *self.arguments])


def grid_file(scale: str) -> pathlib.Path:
    """The package's grid for a scale; raises InputError for an unknown scale."""
    check_choice("scale", scale, SCALES)
    return pathlib.Path(__file__).parent / "grids" / f"{scale}.toml"


def read_grid(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a grid.

    Raises:
        MissingFileError: There is no such file.
        UnreadableFileError: The file is not TOML.
        InputError: It has an unknown or missing key, or a value of the wrong type.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise MissingFileError(f"No grid at {path}.")
    try:
        grid = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnreadableFileError(f"{path} is not TOML: {error}") from error
    try:
        _check(grid)
    except (TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"Expected values of the types in the package's grids. Received: {path}, {error!r}."
        ) from error
    return grid


def plan(
    grid: dict[str, Any], out: str | os.PathLike, *, data_dir: str | os.PathLike | None = None
) -> list[Job]:
    """The jobs of a grid, each after those whose output it reads.

    Args:
        grid: As returned by `read_grid`.
        out: Folder for all output: `DATASET/runs/`, `DATASET/results/` and `report/`.
        data_dir: Folder of tensorflow-datasets.
    """
    out = pathlib.Path(out)
    jobs: list[Job] = []
    for dataset in grid["datasets"]:
        jobs += _dataset_jobs(grid, dataset, out, data_dir)
    results = [str(out / dataset / "results") for dataset in grid["datasets"]]
    needs = tuple(job.name for job in jobs if job.tool != "train")
    report = out / "report"
    arguments = (*results, "--out", str(report))
    jobs.append(
        Job(
            name="report",
            tool="report",
            arguments=arguments,
            output=report,
            needs=needs,
            always=True,
        )
    )
    return jobs


def select(jobs: Sequence[Job], patterns: Sequence[str] | None) -> list[Job]:
    """Jobs that match one of the patterns ("train", "train/*", "*/parl7-*"); all if None.

    Raises:
        InputError: No job matches a pattern.
    """
    if not patterns:
        return list(jobs)
    for pattern in patterns:
        if not any(_matches(job, pattern) for job in jobs):
            names = ", ".join(job.name for job in jobs)
            raise InputError(
                f"Expected a pattern that matches one of {names}. Received: {pattern!r}."
            )
    return [job for job in jobs if any(_matches(job, pattern) for pattern in patterns)]


def _matches(job: Job, pattern: str) -> bool:
    """Whether a pattern matches a job's name or is its kind."""
    return fnmatch.fnmatchcase(job.name, pattern) or job.tool == pattern


def _dataset_jobs(
    grid: dict[str, Any],
    dataset: str,
    out: pathlib.Path,
    data_dir: str | os.PathLike | None,
) -> list[Job]:
    """Jobs of one data set."""
    runs, results = out / dataset / "runs", out / dataset / "results"
    data = ["--data-dir", str(data_dir)] if data_dir else []
    common = ["--dataset", dataset, *data, *shlex.split(grid["train"])]
    jobs: list[Job] = []
    made: dict[str, str] = {}  # name of the job that creates a path

    def add(tool: str, name: str, arguments: Sequence[str], output: pathlib.Path) -> None:
        needs = tuple(dict.fromkeys(made[text] for text in arguments if text in made))
        job = Job(
            name=f"{tool}/{dataset}/{name}",
            tool=tool,
            arguments=tuple(arguments),
            output=output,
            needs=needs,
        )
        made[str(output)] = job.name
        jobs.append(job)

    def options(text: str, seed: int) -> list[str]:
        return shlex.split(text.format(seed=seed, runs=shlex.quote(str(runs))))

    for name, text in grid["surrogates"].items():
        arguments = ["--method", "unprotected", *common, *options(text, 0), "--out"]
        add("train", name, [*arguments, str(runs / name)], runs / name)
    targets = {}
    for setting, text in grid["settings"].items():
        for seed in grid["seeds"]:
            name = f"{setting}-seed{seed}"
            targets[setting, seed] = runs / name
            own = ["--seed", str(seed), *options(text, seed)]
            add("train", name, [*common, *own, "--out", str(runs / name)], runs / name)
    for attack, entry in grid["attacks"].items():
        seeds = entry.get("seeds", grid["seeds"])
        settings = list(entry.get("settings", grid["settings"]))
        groups = [settings] if entry.get("together") else [[setting] for setting in settings]
        for group in groups:
            name = attack if entry.get("together") else f"{attack}-{group[0]}"
            file = results / f"{name}.json"
            arguments = [*data, *shlex.split(entry["options"])]
            for setting in group:
                for seed in seeds:
                    arguments += ["--target", str(targets[setting, seed])]
            for surrogate in entry.get("surrogates", ()):
                arguments += ["--surrogate", str(runs / surrogate)]
            add("attack", name, [*arguments, "--out", str(file)], file)
    for (setting, seed), path in targets.items():
        measured = grid["diversity"]
        if seed not in measured.get("seeds", grid["seeds"]):
            continue
        if setting not in measured.get("settings", grid["settings"]):
            continue
        name = f"{setting}-seed{seed}"
        file = results / f"diversity-{name}.json"
        arguments = ["--target", str(path), *data, *shlex.split(measured["options"])]
        add("diversity", name, [*arguments, "--out", str(file)], file)
    return jobs


def _check(grid: dict[str, Any]) -> None:
    """Raises InputError unless a grid has valid values for all keys, and no other keys."""
    unknown = set(grid) - _KEYS
    missing = _KEYS - set(grid)
    if unknown or missing:
        raise InputError(
            f"Expected a grid with the keys {', '.join(sorted(_KEYS))}. Received: missing "
            f"{sorted(missing)}, unknown {sorted(unknown)}."
        )
    if not grid["datasets"] or not grid["settings"] or not grid["seeds"]:
        raise InputError("Expected at least one data set, setting and seed in a grid.")
    if any(not isinstance(seed, int) or seed < 0 for seed in grid["seeds"]):
        raise InputError(f"Expected seeds of at least 0. Received: {grid['seeds']}.")
    texts = [grid["train"], *grid["surrogates"].values()]
    for name, entry in {**grid["attacks"], "diversity": grid["diversity"]}.items():
        if unknown := set(entry) - _ENTRY_KEYS:
            raise InputError(
                f"Expected the keys {', '.join(sorted(_ENTRY_KEYS))} in {name} of a grid. "
                f"Received: {sorted(unknown)}."
            )
        for surrogate in entry.get("surrogates", ()):
            check_choice("surrogate", surrogate, grid["surrogates"])
        for setting in entry.get("settings", ()):
            check_choice("setting", setting, grid["settings"])
        for seed in entry.get("seeds", ()):
            check_choice("seed", str(seed), map(str, grid["seeds"]))
        texts.append(entry["options"])
    for text in (*texts, *grid["settings"].values()):
        try:
            shlex.split(text.format(seed=0, runs="runs"))
        except (ValueError, LookupError) as error:
            raise InputError(
                f"Expected options in shell syntax. Received: {text!r}, {error}."
            ) from error
    names = [*grid["surrogates"], *grid["settings"], *grid["attacks"], *grid["datasets"]]
    for name in names:
        if pathlib.PurePath(name).name != name:
            raise InputError(f"Expected names without slashes. Received: {name!r}.")
