"""Standard output that cannot be written."""

import os
import subprocess
import sys

import pytest

from parl_tf.cli import common
from parl_tf.cli.common import run
from parl_tf.cli.output import StandardOutput
from parl_tf_tools import TOOLS

FULL = "error: standard output cannot be written: No space left on device.\n"
PIPE = "error: standard output cannot be written: Broken pipe.\n"
# A tool whose body prints and returns as much as it is told to.
TOOL = """
import sys
import parl_tf_tools
parl_tf_tools.is_tool = True
from parl_tf.cli.common import run
from parl_tf.cli.display import print_table

def body():
    print("x" * length)
    if length:
        print_table("a table", ["a"], [["b"]])
    print("done")
    return {"text": "x" * length}

print_json, length = sys.argv[1] == "json", int(sys.argv[2])
sys.exit(run(body, print_json=print_json, tensorflow=False))
"""


def tool(stdout, *arguments, code=TOOL, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.fixture
def full():
    with open("/dev/full", "w") as file:
        yield file


@pytest.fixture
def unread():
    """A pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


# A short text is held back until the process ends; a long one is not; without a buffer none is.
@pytest.mark.parametrize("unbuffered", ["", pytest.param("1", marks=pytest.mark.slow)])
@pytest.mark.parametrize("length", ["0", "100000"])
@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_tool_says_so_and_fails(full, unread, kind, length, unbuffered):
    for stdout, message in ((full, FULL), (unread, PIPE)):
        ended = tool(stdout, kind, length, PYTHONUNBUFFERED=unbuffered)
        assert ended.returncode == 1
        assert ended.stderr.endswith(message)
        assert ended.stderr.count("error") == 1
        assert "Traceback" not in ended.stderr
        assert "ignored" not in ended.stderr  # what Python says when it ends


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("name", TOOLS)
def test_help_says_so_too(full, name, unbuffered):
    code = f"import parl_tf_tools\nparl_tf_tools.{name}()"
    ended = tool(full, "--help", code=code, PYTHONUNBUFFERED=unbuffered)
    assert (ended.returncode, ended.stderr) == (1, FULL)


def test_another_failure_keeps_its_status(full):
    code = TOOL.replace('print("done")', 'print("x"); raise MissingFileError("no such run")')
    code = code.replace("def body", "from parl_tf.errors import MissingFileError\n\ndef body")
    ended = tool(full, "text", "0", code=code, PYTHONUNBUFFERED="")
    assert (ended.returncode, ended.stderr) == (3, "error: no such run\n" + FULL)


@pytest.mark.parametrize("arguments", [("text", "0"), ("json", "0"), ("--help",)])
def test_closed_standard_output_is_refused_before_anything_is_done(arguments):
    code = TOOL
    if arguments == ("--help",):
        code = "import parl_tf_tools\nparl_tf_tools.train()"
    closed = (
        "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    ended = tool(subprocess.DEVNULL, "-c", code, *arguments, code=closed)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: standard output is closed. Expected a file")
    assert len(ended.stderr.splitlines()) == 1


def test_a_closed_standard_error_does_not_matter():
    closed = (
        "import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    ended = tool(subprocess.PIPE, "-c", TOOL, "json", "0", code=closed)
    assert (ended.returncode, ended.stdout) == (0, '{"text": ""}\n')


def test_an_error_of_another_file_is_its_own(capsys):
    def body():
        raise OSError(28, "No space left for results.json")

    assert run(body, print_json=False, tensorflow=False) == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left for results.json\n"


def test_everything_but_writing_is_the_streams_own(capsys):
    output = StandardOutput(sys.stdout)
    assert output.isatty() == sys.stdout.isatty()
    assert output.encoding == sys.stdout.encoding
    print("text", file=output, flush=True)
    assert capsys.readouterr().out == "text\n"
    assert output.failure is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255),
        ("2/255", 2 / 255),
        (" 1 / 3 ", 1 / 3),
        ("0.5/2", 0.25),
        ("-1/4", -0.25),
        ("1e-3", 1e-3),
        ("0.03", 0.03),
    ],
)
def test_fractions_are_numbers(text, value):
    assert common.finite(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "8/0",
        "0/0",
        "nan",
        "1e999",
        "1/1e999",
        "1e308/1e-308",
        "8/255/2",
        "8/",
        "/255",
        "/",
        "",
        "a",
    ],
)
def test_what_is_no_finite_number_or_fraction_is_refused(text):
    with pytest.raises(
        common.argparse.ArgumentTypeError, match="a fraction such as 8/255, received"
    ):
        common.finite(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "", "1/2"])
def test_what_is_no_number_of_things_is_refused(text):
    with pytest.raises(common.argparse.ArgumentTypeError, match="integer of at least 1, received"):
        common.positive_int(text)
    if text != "0":
        with pytest.raises(common.argparse.ArgumentTypeError, match="integer from 0 to 2147483647"):
            common.seed(text)
