"""What is installed is all that a checkout has, on any system that works."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import ktransfer
from ktransfer import cli, files
from ktransfer.errors import KTransferError, unknown
from ktransfer.runs import workers

ROOT = Path(ktransfer.__file__).parents[1]


@pytest.fixture(scope="module")
def options():
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg", encoding="utf-8")
    return found


def test_every_folder_of_the_package_is_installed(options):
    listed = set(options["options"]["packages"].split())
    folders = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in (ROOT / "ktransfer").rglob("__init__.py")
    }
    assert listed == folders | {"ktransfer.experiments"}
    data = options["options.package_data"]
    assert data["ktransfer.methods"] == "*/*.py"


def test_every_file_is_in_a_folder_that_is_installed(options):
    listed = options["options"]["packages"].split()
    folders = {ROOT.joinpath(*name.split(".")) for name in listed}
    for file in (ROOT / "ktransfer").rglob("*.py"):
        family = file.parent.parent == ROOT / "ktransfer" / "methods"
        assert family or file.parent in folders, file


def test_the_module_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ktransfer", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"ktransfer {ktransfer.__version__}\n"


def test_the_experiments_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["list", "experiments"]) == 0
    own = tmp_path / "experiments"
    own.mkdir()
    (own / "quick.py").write_text("broken =", encoding="utf-8")
    # One's own comes first.
    assert cli.main(["run", "quick"]) == 2


def test_cores_are_counted_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert workers.num_cores() == 3
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert workers.num_cores() == 1


def test_a_system_without_locks_is_refused_in_a_sentence(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(files, "fcntl", None)
    assert cli.main(["list"]) == 4
    assert "error[E_SYSTEM]" in capsys.readouterr().err
    with pytest.raises(KTransferError), files.lock(tmp_path / "lock"):
        pass


def test_where_nothing_is_valid_it_says_so():
    assert str(unknown("experiment", "mine", [])).endswith("There is none.")
