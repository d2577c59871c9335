"""README, guides and CONTRIBUTING say what is true of the code beside them."""

import ast
import configparser
import importlib
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "docs" / "cifar10" / "README.md"]
TOOLS = ("train", "attack", "diversity", "report", "reproduce")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def text_of(page):
    return page.read_text(encoding="utf-8")


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def python_blocks(page):
    return [block for language, block in FENCED.findall(text_of(page)) if language == "python"]


def commands(page):
    """Tool and arguments of each indented line that calls one, with shell variables filled in."""
    variables = {}
    for line in re.findall(r"^    (\S.*)$", FENCED.sub("", text_of(page)), re.MULTILINE):
        if assignment := re.fullmatch(r'(\w)="(.*)"', line):
            variables[f"${assignment[1]}"] = assignment[2]
        for name, value in variables.items():
            line = line.replace(name, value)
        if call := re.fullmatch(rf"(?:bin/)?parl-({'|'.join(TOOLS)}) ([^>]*)(>.*)?", line):
            yield call[1], shlex.split(call[2], comments=True)


def test_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 120


def test_commands_are_found():
    found = [tool for page in PAGES for tool, _ in commands(page)]
    assert set(found) == set(TOOLS)
    assert len(found) > 20


@each_page
def test_a_command_has_the_options_that_its_tool_takes(page):
    for tool, arguments in commands(page):
        importlib.import_module(f"parl_tf.cli.{tool}").parser().parse_args(arguments)


@each_page
def test_blocks_of_python_parse(page):
    for block in python_blocks(page):
        source = block if not block.startswith(" ") else f"{{{block}}}"  # a line of a registry
        ast.parse(source)


@each_page
def test_files_that_are_named_exist(page):
    folders = "parl_tf|tests|docs|benchmarks|bin|notebooks|requirements|setup|\\.ci"
    named = re.findall(rf"(?<!In )`((?:{folders})[/.-][\w./-]+)`", text_of(page))
    paths = [name for name in named if "/" in name or name.endswith((".txt", ".cfg"))]
    assert [name for name in paths if not (ROOT / name).exists()] == []


@each_page
def test_tests_that_are_named_exist(page):
    file = None
    for name, test in re.findall(r"`(test_\w+\.py)?(?:::(test_\w+)(?:\.\.\.)?)?`", text_of(page)):
        file = name or file  # `::test_b` is of the file named before
        found = list((ROOT / "tests").rglob(file)) if file else []
        assert found or not (name or test), f"{file} is named, and is not there"
        if test:
            assert f"def {test}" in text_of(found[0]), f"{file}::{test} is named, and is not there"


@each_page
def test_extras_that_are_named_exist(page):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = set(re.findall(r"pip install.*\.\[(\w+)\]", text_of(page)))
    assert named <= set(setup["options.extras_require"])


@pytest.mark.slow
def test_the_code_in_the_readme_runs_as_it_stands(tmp_path):
    (block,) = python_blocks(ROOT / "README.md")
    assert len([line for line in block.splitlines() if line]) <= 10
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| parl \| 0\.0313725 \|", done.stdout, re.MULTILINE), done.stdout
