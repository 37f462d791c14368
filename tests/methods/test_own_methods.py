"""Methods of one's own: found, imported, and refused in one line with a place.

They lie in the folder that KTRANSFER_METHODS names.
"""

import os

import pytest
from helpers import small_task
from sweeps import planned

from ktransfer import cli, fingerprints, methods
from ktransfer.errors import KTransferError
from ktransfer.runs import carry_out

METHOD = '''"""Mine: scratch under another name."""

from ktransfer.engine.training import fit
from ktransfer.models.backbones import BUILDERS
from ktransfer.models.surgery import adapt_input, attach_head


def transfer(target, *, steps, seed, **training):
    backbone = BUILDERS["lenet"](seed=seed)
    model = attach_head(
        adapt_input(backbone, target.image_shape), target.num_classes, seed=seed
    )
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model
'''


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function (place, text) that writes a file of the user's folder."""
    monkeypatch.setenv("KTRANSFER_METHODS", str(tmp_path / "mine"))
    fingerprints.forget()

    def put(place, text):
        file = tmp_path / "mine" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    yield put
    fingerprints.forget()


def refused(act, *words):
    with pytest.raises(KTransferError) as caught:
        act()
    assert caught.value.name == "E_ARGUMENT"
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value


def run_of(method):
    return planned(method, seeds=(0,))[0]


@pytest.mark.parametrize("place", ["nowhere", "empty", "a_file"])
def test_a_folder_without_methods_is_refused(tmp_path, monkeypatch, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a_file").write_text("", encoding="utf-8")
    folders = [str(tmp_path / place)]
    monkeypatch.setenv("KTRANSFER_METHODS", os.pathsep.join(folders))
    refused(methods.names, "KTRANSFER_METHODS", place, "<family>/<method>.py")


def test_a_name_of_the_suite_is_not_replaced(write):
    write("parameter/fine_tuning.py", METHOD)
    refused(methods.names, "fine_tuning.py", "Rename")


def test_a_name_is_given_once(write, monkeypatch, tmp_path):
    first = write("new/mine.py", METHOD)
    second = write("other/mine.py", METHOD)
    refused(methods.names, str(first), str(second), "Rename")


BROKEN = {
    "a syntax error": (METHOD.replace("*, steps", "*, , steps"), 8, "syntax"),
    "no transfer": (METHOD.replace("transfer(", "move("), 1, "`transfer`"),
    "no target": (METHOD.replace("target, *,", "*,"), 8, "target"),
    "no steps": (METHOD.replace("*, steps, seed, **training", "*, x=1"), 8, ""),
    "steps by position": (METHOD.replace("target, *,", "target,"), 8, "steps"),
    "no default": (
        METHOD.replace("*, steps, seed, **training", "*, steps, seed, x"),
        8,
        "x has no",
    ),
    "no text": (METHOD.replace("Mine", "\0"), 1, ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_method_is_refused_by_line(write, name, capsys):
    text, line, word = BROKEN[name]
    file = write("new/mine.py", text)
    refused(lambda: methods.describe("mine"), f"{file}:{line}: ", word)
    assert cli.main(["list", "methods"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert cli.main(["run", "--method", "mine", "--target", "digits"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_bytes_that_are_no_text_are_refused(write):
    file = write("new/mine.py", METHOD)
    file.write_bytes(b"\xff\xfe")
    refused(lambda: methods.describe("mine"), f"{file}:1: ")


RELATIVE = {
    "from .beside import share": "new/beside.py",
    "from ._beside import share": "new/_beside.py",
    "from ..shared.beside import share": "shared/beside.py",
}


@pytest.mark.parametrize("statement", RELATIVE)
def test_ones_own_files_are_imported_by_their_place(write, statement):
    helper = "def share(steps):\n    return steps\n\n\n"
    helper += "def transfer(target, *, steps, seed):\n    return None\n"
    beside = write(RELATIVE[statement], helper)
    text = METHOD.replace("\n\nfrom", f"\n\n{statement}\nfrom", 1)
    text = text.replace("steps=steps", "steps=share(steps)")
    write("new/mine.py", text)
    target = small_task("target", 1)
    model = methods.load("mine")(target, steps=1, seed=0)
    assert model.output.shape == (None, 3)
    # What is beside it counts for its records, and is read anew.
    before = carry_out.runs.code(run_of("mine"))
    beside.write_text(helper.replace("steps\n\n\n", "0 / 0\n\n\n"), "utf-8")
    fingerprints.forget()
    assert carry_out.runs.code(run_of("mine")) != before
    with pytest.raises(ZeroDivisionError):
        methods.load("mine")(target, steps=1, seed=0)


def test_an_import_that_fails_is_said_with_its_line(write):
    file = write("new/mine.py", METHOD.replace("engine.tr", "engine.strai"))
    refused(lambda: methods.load("mine"), f"{file}:3", "ModuleNotFoundError")
    file = write("new/mine.py", f"import beside\n{METHOD}")
    write("new/beside.py", METHOD)
    refused(lambda: methods.load("mine"), f"{file}:1", "from . import beside")


def test_a_method_that_fails_says_where(write, tmp_path, monkeypatch, capsys):
    broken = METHOD.replace("    fit(", "    steps / 0\n    fit(")
    write("new/mine.py", broken)
    record = carry_out.carry_out(tmp_path / "results", run_of("mine"))
    assert record["status"] == "failed"
    assert "ZeroDivisionError" in record["reason"]
    assert record["reason"].endswith("(new/mine.py:13)")
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("KT_DEBUG", "1")
    carry_out.carry_out(tmp_path / "results", run_of("mine"))
    error = capsys.readouterr().err
    assert "Traceback" in error and "steps / 0" in error


def test_a_failure_deep_below_is_said_by_ones_own_line(write, tmp_path):
    write("new/mine.py", METHOD.replace("steps=steps", "steps=-1"))
    record = carry_out.carry_out(tmp_path / "results", run_of("mine"))
    assert record["reason"].startswith("error[E_ARGUMENT]: steps is -1")
    assert record["reason"].endswith("(new/mine.py:13)")


def test_a_method_of_the_suite_says_where_it_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(
        carry_out.data, "validation_split", lambda *a, **b: 1 / 0
    )
    run = run_of("scratch")._replace(evaluation="validation")
    record = carry_out.carry_out(tmp_path, run)
    assert "ZeroDivisionError" in record["reason"]
    assert "(runs/carry_out.py:" in record["reason"]
