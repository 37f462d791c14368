"""A fingerprint moves with the code that can be reached, and no other."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ktransfer
from ktransfer import fingerprints, methods, runs
from ktransfer.errors import KTransferError
from ktransfer.runs import Run

PACKAGE = Path(ktransfer.__file__).parent

CORE = '''
"""Core."""
import numpy as np
from ktransfer import frozen
from ktransfer.models.surgery import freeze

LIMIT = 3

def used(x):
    """Documented."""
    return helper(x) + LIMIT  # a comment

def helper(x):
    return freeze(x)

def other(x):
    return frozen.split(x)
'''


@pytest.fixture(autouse=True)
def read_anew():
    fingerprints.forget()
    yield
    fingerprints.forget()


def code_of(tmp_path, text, name="used"):
    file = tmp_path / "method.py"
    file.write_text(text, encoding="utf-8")
    fingerprints.forget()
    return fingerprints.code((file, name))


@pytest.fixture
def spoilt(monkeypatch):
    """A function (file of the package, old, new) that plants a change."""
    read = fingerprints._read

    def plant(name, old, new):
        def planted(file):
            text = read(file)
            if file == PACKAGE / name:
                assert old in text
                text = text.replace(old, new)
            return text

        monkeypatch.setattr(fingerprints, "_read", planted)

    return plant


@pytest.mark.parametrize(
    ("old", "new", "moves"),
    [
        ("# a comment", "# another", False),
        ("Documented.", "Documented otherwise.", False),
        ("helper(x) + LIMIT", "helper( x )+LIMIT", False),
        ("frozen.split(x)", "frozen.split(x, 1)", False),
        ("LIMIT = 3", "LIMIT = 4", True),
        ("return freeze(x)", "return freeze(x), 1", True),
        ("helper(x) + LIMIT", "helper(x) - LIMIT", True),
        ("def other(x):", "helper = None\n\ndef other(x):", True),
    ],
)
def test_what_moves_it(tmp_path, old, new, moves):
    assert old in CORE
    before = code_of(tmp_path, CORE)
    after = code_of(tmp_path, CORE.replace(old, new))
    assert (before != after) == moves


IMPORTS = {
    "name": ("from ktransfer.models.surgery import freeze", "freeze"),
    "renamed": ("from ktransfer.models.surgery import freeze as f", "f"),
    "module": ("from ktransfer.models import surgery", "surgery.freeze"),
    "module as": ("import ktransfer.models.surgery as s", "s.freeze"),
    "dotted": (
        "import ktransfer.models.surgery",
        "ktransfer.models.surgery.freeze",
    ),
    "facade": ("import ktransfer", "ktransfer.freeze"),
    "facade's module": ("import ktransfer", "ktransfer.models.surgery.freeze"),
    "facade's name": ("from ktransfer import freeze", "freeze"),
    "star": ("from ktransfer.models.surgery import *", "freeze"),
    "tried": (
        "try:\n    from ktransfer.models.surgery import freeze\n"
        "except ImportError:\n    raise",
        "freeze",
    ),
    "relative": ("from .beside import helper", "helper"),
    "relative module": ("from . import beside", "beside.helper"),
    "sibling": ("import beside", "beside.helper"),
    "sibling's name": ("from beside import helper", "helper"),
}


@pytest.mark.parametrize("inside", [False, True], ids=["above", "inside"])
@pytest.mark.parametrize("form", IMPORTS)
def test_every_form_of_import_is_followed(tmp_path, spoilt, form, inside):
    statement, used = IMPORTS[form]
    if inside and form == "star":
        pytest.skip("Python forbids it")
    beside = "from ktransfer.models.surgery import freeze\nhelper = freeze\n"
    (tmp_path / "beside.py").write_text(beside, encoding="utf-8")
    text = f"{statement}\n\ndef used(x):\n    return {used}(x)\n"
    if inside:
        lines = [f"    {line}\n" for line in statement.splitlines()]
        text = f"def used(x):\n{''.join(lines)}    return {used}(x)\n"
    before = code_of(tmp_path, text)
    spoilt(
        "models/surgery.py", "_set_trainable(what, False)", "print(what, False)"
    )
    assert code_of(tmp_path, text) != before


def test_a_re_export_is_followed(tmp_path, spoilt):
    text = "from ktransfer import data\ndef used(x): return data.subset(x)\n"
    before = code_of(tmp_path, text)
    spoilt("data/subsets.py", "counts.min() < labels", "counts.max() < labels")
    assert code_of(tmp_path, text) != before


def test_a_name_that_another_package_takes_over_moves_it(tmp_path):
    text = "import numpy as np\ndef used(x): return np.sum(x)\n"
    before = code_of(tmp_path, text)
    assert code_of(tmp_path, text.replace("numpy", "cupy")) != before
    assert code_of(tmp_path, f"import math\n{text}") == before


@pytest.mark.parametrize(
    "text",
    [
        "def other(x): return x\n",
        "from ktransfer.engine import training\n"
        "def used(x): return training.foresee(x)\n",
        "from ktransfer.engine.training import foresee\n"
        "def used(x): return foresee(x)\n",
        "import ktransfer\ndef used(x): return ktransfer.foresee(x)\n",
        "import ktransfer.foresee as f\ndef used(x): return f.see(x)\n",
        "def used(x): return foresee(x)\n",
    ],
)
def test_a_name_that_is_not_there_is_an_error(tmp_path, text):
    with pytest.raises(KTransferError) as caught:
        code_of(tmp_path, text)
    assert caught.value.name == "E_UNKNOWN"


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda x: x.name
)
def test_every_reference_of_the_package_resolves(file):
    module = fingerprints._parsed(file)
    for name in module.definitions:
        module.reach(name)


def test_a_parameter_hides_a_module_of_its_name(tmp_path):
    text = "from ktransfer import data\ndef used(data): return data.x, data\n"
    file = tmp_path / "method.py"
    file.write_text(text, encoding="utf-8")
    assert list(fingerprints.reached((file, "used"))) == [(file, "used")]
    handed_on = text.replace("used(data)", "used(x)")
    file.write_text(handed_on.replace("data.x, data", "data"), encoding="utf-8")
    fingerprints.forget()
    assert (PACKAGE / "data" / "__init__.py", "*") in fingerprints.reached(
        (file, "used")
    )


@pytest.mark.parametrize(
    "pattern", ["data", "[1, *data]", "{1: 2, **data}", "int() as data"]
)
def test_a_pattern_hides_a_module_of_its_name(tmp_path, pattern):
    text = (
        "from ktransfer import data\n"
        f"def used(x):\n match x:\n  case {pattern}: return data\n"
    )
    file = tmp_path / "method.py"
    file.write_text(text, encoding="utf-8")
    assert list(fingerprints.reached((file, "used"))) == [(file, "used")]


def test_a_list_hides_a_name_in_itself_alone(tmp_path):
    text = (
        "from ktransfer.models.surgery import freeze\n"
        "def used(x): return [freeze for freeze in x], freeze\n"
    )
    file = tmp_path / "method.py"
    file.write_text(text, encoding="utf-8")
    found = fingerprints.reached((file, "used"))
    assert (PACKAGE / "models" / "surgery.py", "freeze") in found


PLANTED = {
    "predict returns zeros": (
        "engine/prediction.py",
        "        return programs.forward(model, images)\n",
        "        return 0 * programs.forward(model, images)\n",
    ),
    "evaluation is kinder": (
        "measures/evaluation.py",
        '"test_accuracy": float(right.mean())',
        '"test_accuracy": float(right.mean()) + 0.01',
    ),
    "a test part of ten images": (
        "data/tasks.py",
        "    return _problem(_place(name)).test\n",
        "    return Split(*(x[:10] for x in _problem(_place(name)).test))\n",
    ),
    "one choice of labels for all seeds": (
        "data/tasks.py",
        "_ranking(_place(name), int(seed))",
        "_ranking(_place(name), 0)",
    ),
    "thrice the labels": (
        "data/tasks.py",
        "subset(task.train, labels_per_class, seed, ranked)",
        "subset(task.train, 3 * labels_per_class, seed, ranked)",
    ),
    "a record that flatters": (
        "runs/carry_out.py",
        'if record["status"] in ("diverged", "failed"):',
        'record["test_accuracy"] = 1.0\n    if record["status"] in ():',
    ),
    "another start of a Dense layer": (
        "models/surgery.py",
        "keras.initializers.GlorotUniform(",
        "keras.initializers.HeUniform(",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_change_makes_every_record_stale(spoilt, planted):
    def codes():
        fingerprints.forget()
        found = {}
        for name in methods.names():
            sources = methods.sources_for(name, "letters", "letters")
            run = Run("x", name, "digits", 1, 0, 1, sources, 0, 1)
            found[name] = runs.code(run)
        return found

    before = codes()
    spoilt(*PLANTED[planted])
    # No head is made by these, and no source has one to give them.
    untouched = {"majority"} if "Dense" in planted else set()
    now = codes()
    assert {n for n in before if before[n] == now[n]} <= untouched


def test_a_renamed_evaluation_is_an_error(spoilt):
    spoilt("measures/evaluation.py", "def evaluate(", "def evaluated(")
    with pytest.raises(KTransferError, match="'evaluate'"):
        runs.code(Run("x", "scratch", "digits", 1, 0))


TABLE = """
def one(x): return 1
def two(x): return 2
TABLE = {"one": one, "two": two}
def used(name): return TABLE[name]
"""


def test_of_a_table_the_chosen_entries_count(tmp_path):
    file = tmp_path / "method.py"

    def code(text, *keys):
        file.write_text(text, encoding="utf-8")
        fingerprints.forget()
        return fingerprints.code((file, "used"), choices=(("TABLE", keys),))

    changed = TABLE.replace("return 2", "return 3")
    assert code(TABLE, "one") == code(changed, "one")
    assert code(TABLE, "two") != code(changed, "two")
    swapped = TABLE.replace('"one": one', '"one": two')
    assert code(TABLE, "one") != code(swapped, "one")
    with pytest.raises(KTransferError):
        code(TABLE, "three")
    with pytest.raises(KTransferError):
        code(TABLE.replace('{"one"', 'dict() or {"one"'), "one")


@pytest.mark.parametrize(
    "name",
    [
        "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS",
        "DNNL_MAX_CPU_ISA",
        "TF_ENABLE_MLIR_OPTIMIZATIONS",
        "OPENBLAS_CORETYPE",
        "XLA_FLAGS",
        "KERAS_SOMETHING_NEW",
        "NPY_DISABLE_CPU_FEATURES",
        "MKL_CBWR",
    ],
)
def test_every_switch_that_is_set_counts(monkeypatch, name):
    before = fingerprints.switches()
    monkeypatch.setenv(name, "1")
    assert fingerprints.switches() == {**before, name: "1"}
    for harmless in (*fingerprints.HARMLESS, "TF_CLI_CONFIG_FILE"):
        monkeypatch.setenv(harmless, "1")
    assert fingerprints.switches() == {**before, name: "1"}


HARMLESS = {
    "KERAS_BACKEND": "tensorflow",
    "KERAS_HOME": "nowhere",
    "MKL_NUM_THREADS": "2",
    "OPENBLAS_NUM_THREADS": "2",
    "TF_CPP_MAX_VLOG_LEVEL": "0",
    "TF_CPP_MIN_LOG_LEVEL": "0",
    "TF_NUM_INTEROP_THREADS": "2",
    "TF_NUM_INTRAOP_THREADS": "2",
}


@pytest.mark.slow
def test_what_is_called_harmless_moves_no_bit(tmp_path):
    """A run by the command, in a worker that fixes its threads."""
    assert set(HARMLESS) == set(fingerprints.HARMLESS)
    found = []
    for number, settings in enumerate(({}, HARMLESS)):
        results = tmp_path / str(number)
        kept = {k: v for k, v in os.environ.items() if k not in HARMLESS}
        subprocess.run(
            [
                *(sys.executable, "-m", "ktransfer.cli", "run", "--jobs", "1"),
                *("--method", "correlation_alignment", "--steps", "3"),
                *("--target", "digits", "--source", "digits_inverted"),
                *("--source-steps", "3", "--results", str(results)),
                *("--labels-per-class", "2"),
            ],
            env={**kept, **settings},
            check=True,
            capture_output=True,
        )
        (path,) = results.glob("single/records/*/*.jsonl")
        (record,) = runs.read(path)
        found.append({k: record[k] for k in ("test_loss", "fingerprint")})
    assert found[0] == found[1]


def test_switches_that_move_numbers_are_seen(monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    assert "TF_ENABLE_ONEDNN_OPTS" not in fingerprints.switches()
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert fingerprints.switches()["TF_ENABLE_ONEDNN_OPTS"] == "0"


def test_what_the_package_sets_itself_is_no_switch(monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    importlib.reload(ktransfer)
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert "TF_ENABLE_ONEDNN_OPTS" not in fingerprints.switches()
