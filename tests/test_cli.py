"""The command line as a newcomer meets it: fast, and with one line an error."""

import ast
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from ktransfer import cli
from ktransfer.errors import EXIT_CODES, KTransferError
from ktransfer.runs import Run, checks

BASE = ["run", "--method", "fine_tuning", "--source", "letters"]
TARGET = ["--target", "digits"]


def fails(capsys, arguments, name, *words):
    code = cli.main(arguments)
    *said, error = capsys.readouterr().err.splitlines()
    assert error.startswith(f"ktransfer: error[{name}]: "), error
    # Nothing else, but for what it reads once that is more than names.
    reads = [line for line in said if "1 method; reading " in line]
    assert said == reads and len(reads) == (EXIT_CODES[name] > 2)
    for word in words:
        assert word in error, error
    return code


@pytest.mark.parametrize(
    ("arguments", "name", "words"),
    [
        (
            ["run", "--method", "fine_tunning", *TARGET],
            "E_UNKNOWN",
            ["Did you mean 'fine_tuning'?", "scratch"],
        ),
        ([*BASE, "--target", "digitz"], "E_UNKNOWN", ["'digits'", "mnist"]),
        (
            [*BASE[:-1], "leters", *TARGET],
            "E_UNKNOWN",
            ["'letters'"],
        ),
        (
            [
                *("run", "--method", "feature_extraction", "--source"),
                *("letters", *TARGET, "--set", "layer=block9_conv"),
            ],
            "E_UNKNOWN",
            ["block3_conv", "features"],
        ),
        ([*BASE, *TARGET, "--backbone", "vgg16"], "E_UNKNOWN", ["'vgg'"]),
        (
            [*BASE, *TARGET, "--steps", "0"],
            "E_ARGUMENT",
            ["steps", "at least 1"],
        ),
        (
            [*BASE, *TARGET, "--set", "learning_rate=-0.1"],
            "E_ARGUMENT",
            ["learning_rate", "-0.1"],
        ),
        (
            [*BASE, *TARGET, "--set", "learning_rate=1e400"],
            "E_ARGUMENT",
            ["learning_rate", "inf"],
        ),
        (
            [*BASE, *TARGET, "--set", "weight_decay=True"],
            "E_ARGUMENT",
            ["weight_decay"],
        ),
        (
            [*BASE, *TARGET, "--set", "temprature=1"],
            "E_UNKNOWN",
            ["temprature"],
        ),
        ([*BASE, *TARGET, "--set", "oops"], "E_ARGUMENT", ["NAME=VALUE"]),
        (
            [*BASE, *TARGET, "--set", "batch_size=8", "--set", "batch_size=4"],
            "E_ARGUMENT",
            ["batch_size", "twice"],
        ),
        (
            ["run", "quick", *TARGET, "--steps", "600", "--source", "letters"],
            "E_ARGUMENT",
            ["--target", "--source", "--steps", "Leave them out"],
        ),
        (
            ["run", "quick", "--method", "scratch", "--set", "batch_size=8"],
            "E_ARGUMENT",
            ["--method", "--set"],
        ),
        (
            ["run", "--method", "fine_tuning", *TARGET],
            "E_ARGUMENT",
            ["sources"],
        ),
        ([*BASE, *TARGET, "--labels-per-class", "0"], "E_ARGUMENT", ["labels"]),
        ([*BASE, *TARGET, "--seed", "-1"], "E_ARGUMENT", ["seed"]),
        ([*BASE, *TARGET, "--jobs", "0"], "E_ARGUMENT", ["jobs"]),
        (["run"], "E_ARGUMENT", ["experiment"]),
        (["run", "quik"], "E_UNKNOWN", ["'quick'"]),
        (["run", "quick", "--save-model", "x"], "E_ARGUMENT", ["--method"]),
        (["data", "minst"], "E_UNKNOWN", ["'mnist'"]),
    ],
)
def test_bad_arguments(capsys, monkeypatch, arguments, name, words):
    monkeypatch.chdir(os.path.dirname(os.path.dirname(__file__)))
    assert fails(capsys, arguments, name, *words) == 2


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"x_train": np.full((6, 8, 8, 3), np.nan)}, "E_IMAGES"),
        ({"x_train": np.zeros((6, 8), "uint8")}, "E_IMAGES"),
        ({"x_train": np.zeros((6, 8, 8, 3), "float32")}, "E_IMAGES"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 9])}, "E_SUBSET"),
        ({"y_train": np.array([0, 1, -2, 0, 1, 1])}, "E_LABELS"),
        ({"y_train": np.array([0, 1, 1.5, 0, 1, 1])}, "E_LABELS"),
        ({"y_test": np.array([0, 1, 2, 0, 1, 9])}, "E_LABELS"),
    ],
)
def test_bad_data_of_ones_own(capsys, monkeypatch, tmp_path, change, name):
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype("uint8")
    arrays = {"x_train": x, "x_test": x}
    arrays |= {"y_train": np.arange(6) % 3, "y_test": np.arange(6) % 3}
    np.savez(tmp_path / "mine.npz", **arrays | change)
    monkeypatch.setenv("KTRANSFER_DATA", str(tmp_path))
    arguments = [*BASE, "--target", "mine", "--results", str(tmp_path / "r")]
    assert fails(capsys, arguments, name) == 3


def test_an_unwritable_results_folder(capsys, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    arguments = [*BASE, *TARGET, "--results", str(tmp_path / "file")]
    assert fails(capsys, arguments, "E_RESULTS_DIR") == 4


def test_another_backend_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert fails(capsys, ["list"], "E_ARGUMENT", "KERAS_BACKEND") == 2


def timed(*arguments, cwd=None):
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ktransfer.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
    )
    return time.monotonic() - start, done


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list", "methods"],
        ["list", "data"],
        ["images", "nowhere"],
        ["run", "--method", "nothing", "--target", "digits"],
        [*BASE, *TARGET, "--steps", "0"],
    ],
)
def test_no_tensorflow_where_none_is_needed(arguments):
    seconds, done = timed(*arguments)
    imported = {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines()
    }
    assert "numpy" in imported
    assert not imported & {"tensorflow", "keras"}
    # Wide: an error takes a third of a second on a quiet machine.
    assert seconds < 5


def test_the_surface_is_lazy():
    program = (
        "import sys, ktransfer; assert 'keras' not in sys.modules\n"
        "from ktransfer import data, runs, plots, report, analysis, methods\n"
        "assert 'keras' not in sys.modules and ktransfer.load is data.load"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_lists_name_what_is_there(capsys, monkeypatch):
    monkeypatch.chdir(os.path.dirname(os.path.dirname(__file__)))
    for what, word in (
        ("methods", "fine_tuning"),
        ("data", "digits"),
        ("backbones", "resnet20"),
        ("experiments", "cifar10_mnist"),
    ):
        assert cli.main(["list", what]) == 0
        assert word in capsys.readouterr().out


def test_a_data_set_is_shown(capsys):
    assert cli.main(["data", "digits_5to9"]) == 0
    out = capsys.readouterr().out
    assert "5 classes" in out and "28 x 28 x 1" in out and "sha256" in out


def test_one_run_from_the_command_line(capsys, tmp_path):
    arguments = ["run", "--method", "majority", *TARGET]
    arguments += ["--labels-per-class", "2", "--results", str(tmp_path)]
    assert cli.main([*arguments, "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert "majority" in out
    assert "balanced accuracy 10.0 %" in out
    assert "accuracy by class, %: 0 " in out


def test_an_unwritable_folder_of_a_model(capsys, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    arguments = ["run", "--method", "majority", *TARGET]
    arguments += ["--results", str(tmp_path / "results"), "--save-model"]
    arguments += [str(tmp_path / "file")]
    assert fails(capsys, arguments, "E_RESULTS_DIR", "--save-model") == 4


def test_a_model_is_kept_from_the_command_line(capsys, tmp_path):
    arguments = [*BASE, *TARGET, "--labels-per-class", "2", "--steps", "3"]
    arguments += ["--source-steps", "3", "--results", str(tmp_path)]
    folder = tmp_path / "kept"
    arguments += ["--jobs", "1", "--save-model", str(folder)]
    assert cli.main(arguments) == 0
    assert f"kept: {folder / 'model.keras'}" in capsys.readouterr().out
    assert {x.name for x in folder.iterdir()} == {
        *("card.md", "labels.json", "model.keras")
    }
    # What the card says of how to use it is what one does.
    card = (folder / "card.md").read_text(encoding="utf-8")
    program = card.partition("```python\n")[2].partition("```")[0]
    assert len(program.splitlines()) == 5
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    (label,) = ast.literal_eval(done.stdout)
    assert label in map(str, range(10))


def test_a_method_that_does_not_apply_keeps_nothing(capsys, tmp_path):
    folder = tmp_path / "kept"
    arguments = ["run", "--method", "source_only", "--source", "letters"]
    arguments += [*TARGET, "--labels-per-class", "2", "--steps", "3"]
    arguments += ["--source-steps", "3", "--results", str(tmp_path)]
    arguments += ["--jobs", "1", "--save-model", str(folder)]
    assert cli.main(arguments) == 1
    told = capsys.readouterr()
    assert "no model was kept; not applicable: " in told.err
    assert "kept:" not in told.out and not list(folder.iterdir())


@pytest.mark.parametrize("count", [0, 2])
def test_sources_are_counted_before_anything_is_loaded(count):
    run = Run("x", "fine_tuning", "digits", 1, 0, sources=("letters",) * count)
    with pytest.raises(KTransferError, match=f"{count} sources"):
        checks.check_run(run)
