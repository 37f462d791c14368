"""What a terminal shows: its width, its letters, a plan before the work."""

import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

from ktransfer import cli, runs
from ktransfer.runs import Run, scripts


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The folder of a data set with a class `猫`."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("猫", "dog"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            pixels = rng.integers(0, 256, (8, 8, 3)).astype("uint8")
            Image.fromarray(pixels).save(folder / "one.png")
    monkeypatch.setenv("KTRANSFER_DATA", str(tmp_path))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_a_letter_shows_its_number(
    photos, monkeypatch, encoding
):
    shown = io.BytesIO()
    terminal = io.TextIOWrapper(shown, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main(["data", "photos"]) == 0
    terminal.flush()
    text = shown.getvalue().decode(encoding)
    assert ("猫" if encoding == "utf-8" else r"\u732b") in text


@pytest.mark.parametrize(("columns", "wide"), [("", 80), ("120", 120)])
def test_a_table_is_as_wide_as_the_terminal(
    tmp_path, monkeypatch, capsys, columns, wide
):
    monkeypatch.setenv("COLUMNS", columns)
    options = ["--labels-per-class", "1", "--results", str(tmp_path)]
    run = ["run", "--method", "majority", "--target", "digits", "--jobs", "1"]
    assert cli.main([*run, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= wide
    (head,) = (line for line in lines if line.startswith("method "))
    # Where there is space for it.
    assert head.endswith("verdict") == (wide == 120)


SCRIPT = """
from ktransfer.runs import Run
from ktransfer.runs.planning import Experiment

ONE = Run("", "majority", "digits", 2, 0, 1)


def figures(records, mix=False):
    return {}


EXPERIMENT = Experiment(
    name="mine", runs=lambda: [ONE, ONE._replace(seed=1)], figures=figures
)
"""


@pytest.fixture
def script(tmp_path):
    """The path of a script of two runs."""
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


@pytest.mark.parametrize("command", ["run", "report"])
def test_a_folder_that_cannot_be_written_is_said_below_the_table(
    script, tmp_path, monkeypatch, capsys, command
):
    results = tmp_path / "results"
    arguments = [str(script), "--results", str(results)]
    assert cli.main(["run", *arguments, "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    table = shown[: shown.index("written: ")]
    # Permissions would not stop root.
    (results / "mine" / "summary.md").unlink()
    (results / "mine" / "summary.md").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert cli.main([command, *arguments]) == 4
    found = capsys.readouterr()
    assert found.out == table
    assert "error[E_RESULTS_DIR]" in found.err.splitlines()[-1]


def test_a_folder_that_cannot_be_written_is_said_before_a_run(
    script, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(os, "access", lambda *_: False)
    arguments = [str(script), "--results", str(tmp_path / "results")]
    assert cli.main(["run", *arguments, "--jobs", "1"]) == 4
    found = capsys.readouterr()
    assert not found.out and "E_RESULTS_DIR" in found.err


def test_a_choice_that_is_there_is_not_written_again(tmp_path, monkeypatch):
    run = Run("mine", "scratch", "digits", 2, 0, 1, evaluation="validation")
    fields = {**runs.as_fields(run), "code": runs.code(run), "status": "ok"}
    fields |= {"fingerprint": runs.fingerprint(run), "num_labels": 10}
    runs.write(tmp_path, {**fields, "validation_accuracy": 0.5})
    path = scripts.write_choice([run], tmp_path)
    monkeypatch.setattr(scripts.files, "write", None)
    assert scripts.write_choice([run], tmp_path) == path
