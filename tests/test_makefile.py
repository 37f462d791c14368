"""Values that are given to `make` are values, and never commands."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ktransfer import cli

ROOT = Path(__file__).parents[1]
# Each would make a file called `made` where it is run by a shell or by make.
PLANTED = (
    "1'; touch made; '",
    '1"; touch made; "',
    "$(touch made)",
    "$(shell touch made)",
    "`touch made`",
    "1\ntouch made",
    "; touch made;",
)
NAMES = ("JOBS", "RESULTS", "PRECISION", "QUICK")
TARGETS = ("quick", "finetune", "report", "test", "bench", "clean")


@pytest.fixture
def checkout(tmp_path):
    """A folder with the Makefile, whose programs note what they are given."""
    if not shutil.which("make"):
        pytest.skip("there is no make")
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("setup.cfg", "pyproject.toml", "bench/peers.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    bins = tmp_path / ".venv" / "bin"
    bins.mkdir(parents=True)
    for name in ("ktransfer", "python"):
        program = bins / name
        program.write_text('#!/bin/sh\nprintf "%s\\0" "$@" >> given\n', "utf-8")
        program.chmod(0o755)
    (tmp_path / ".venv" / "bench").mkdir()
    stamps = [
        ".venv/bench/.peers",
        *(f".venv/bin/.{x}" for x in ("core", "dev")),
    ]
    for stamp in (*stamps, ".venv/bin/.data"):
        (tmp_path / stamp).touch()
        os.utime(tmp_path / stamp, (2**31, 2**31))
    return tmp_path


def make(checkout, *arguments, **environment):
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        env={**plain, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def given(checkout):
    return (checkout / "given").read_text("utf-8").split("\0")


@pytest.mark.parametrize("value", PLANTED)
@pytest.mark.parametrize("by", ["command line", "environment"])
def test_no_value_runs_a_command(checkout, value, by):
    values = dict.fromkeys(NAMES, value)
    if by == "command line":
        make(checkout, *TARGETS, *(f"{k}={v}" for k, v in values.items()))
    else:
        make(checkout, *TARGETS, **values)
    assert not list(checkout.rglob("made"))
    # All were asked for, and the last removes the programs.
    assert {"quick", "finetune", "report", "-m", "bench/run.py"} <= {
        *given(checkout)
    }
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("by", ["command line", "environment"])
def test_a_value_reaches_the_command_as_it_is(checkout, by):
    values = {"JOBS": "3", "RESULTS": "a b'$(c)\"", "PRECISION": "float32"}
    if by == "command line":
        make(checkout, "quick", *(f"{k}={v}" for k, v in values.items()))
    else:
        make(checkout, "quick", **values)
    assert given(checkout)[:5] == [
        *("run", "quick", "--jobs=3", "--precision=float32"),
        "--results=a b'$(c)\"",
    ]


def test_without_a_value_there_is_the_usual_one(checkout):
    make(checkout, "finetune", "QUICK=1")
    run, name, quick, jobs, precision, results, _ = given(checkout)
    assert (run, name, quick) == ("run", "finetune", "--quick")
    assert int(jobs.removeprefix("--jobs=")) >= 1
    assert (precision, results) == ("--precision=float32", "--results=results")


def test_clean_removes_nothing_outside_of_the_results(checkout):
    (checkout / "a b" / "quick").mkdir(parents=True)
    (checkout / "a b" / "mine").mkdir()
    make(checkout, "clean", "RESULTS=a b")
    assert [x.name for x in (checkout / "a b").iterdir()] == ["mine"]
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--jobs", "1'; touch made; '"],
        ["--jobs", ""],
        ["--jobs", "0"],
        ["--results", ""],
        ["--precision", "1; touch made"],
    ],
)
def test_a_value_that_is_none_is_refused(
    capsys, tmp_path, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    run = ["run", "--method", "majority", "--target", "digits"]
    try:
        code = cli.main([*run, *arguments])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert arguments[0].strip("-") in capsys.readouterr().err
