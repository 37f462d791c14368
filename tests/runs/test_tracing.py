"""The hash of a run's code holds every function that a run really enters.

Found by tracing runs, not by reading imports: for each method, a constant is
changed in one function after the other, and each time the hash must move.
"""

import ast
import functools
import sys
from pathlib import Path

import pytest

from ktransfer import fingerprints, methods, runs
from ktransfer.runs import Run
from ktransfer.runs.carry_out import carry_out

# Each of the many runs has a few steps, which a trace would outlast.
pytestmark = pytest.mark.eager
PACKAGE = Path(runs.__file__).parents[1]
# Entered, and without a say in any number: each with its reason.
IDLE = {
    # They find, lock and write the record, and say who made it.
    ("runs/carry_out.py", "carry_out"),
    # It hands out names of the package, which the hash follows itself.
    ("__init__.py", "__getattr__"),
    # They read a method's text for the lists, and for its family.
    ("methods/__init__.py", "_describe"),
    ("methods/__init__.py", "_parsed"),
    ("methods/__init__.py", "_arguments"),
    ("methods/__init__.py", "_fault"),
    ("methods/__init__.py", "_literal"),
    ("methods/__init__.py", "_line"),
    # They make the arrays, or their hash, which is in the fingerprint.
    ("data/split.py", "sha256"),
    ("data/subsets.py", "keep_classes"),
    *(
        ("data/tasks.py", name)
        for name in (
            *("_check_grammar", "_check_range", "_classes", "_find"),
            *("_narrowed", "_shifted"),
            *("_warn_of_hidden", "classes", "digest"),
        )
    ),
}
# The worlds of a trace: without BatchNorm, and with it and equal classes.
WORLDS = (
    ("convnet", "digits_0to4", "letters_0to4"),
    ("lenet", "digits_0to4", "digits_0to4_inverted"),
)
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef


def runs_of(name):
    """Return a small run of the method in either world."""
    known = methods.describe(name).hyperparameters
    small = {"batch_size": 8, "num_images": 8, "max_images": 20}
    chosen = {key: small[key] for key in small if key in known}
    for backbone, target, source in WORLDS:
        sources = methods.sources_for(name, source, source)
        yield Run(
            experiment="trace",
            method=name,
            target=target,
            steps=7,
            seed=0,
            labels_per_class=2,
            sources=sources,
            source_seed=0 if sources else None,
            source_steps=2 if sources else None,
            backbone=backbone,
            hyperparameters=tuple(sorted(chosen.items())),
        )


def entered(work):
    """Return (file, first line) of every function of ours, and the result."""
    found = set()

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)):
            found.add((Path(code.co_filename), code.co_firstlineno))

    sys.setprofile(note)
    try:
        result = work()
    finally:
        sys.setprofile(None)
    return sorted(found), result


def first_line(function):
    lines = [x.lineno for x in (function, *function.decorator_list)]
    return min(lines)


@functools.cache
def functions(file):
    """Return first line -> name of the outermost definition around it."""
    return {
        first_line(node): getattr(top, "name", None)
        for top in ast.parse(file.read_text(encoding="utf-8")).body
        for node in ast.walk(top)
        if isinstance(node, FUNCTIONS)
    }


@functools.cache
def mutated(file, line):
    """Return the module of `file` with another constant in one function."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    (function,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and first_line(node) == line
    )
    documented = ast.get_docstring(function) is not None
    body = ast.Module(function.body[documented:], [])
    constants = [n for n in ast.walk(body) if isinstance(n, ast.Constant)]
    if constants:
        constants[0].value = f"other than {constants[0].value!r}"
    else:
        function.body[documented:documented] = ast.parse("planted = 1").body
    return fingerprints._Module(file, ast.unparse(tree))


@pytest.fixture
def code_with(monkeypatch):
    """A function (run, module or None) -> hash with `module` for its file."""
    parsed = fingerprints._parsed

    def code(run, module=None):
        def patched(file):
            return module if module and file == module.file else parsed(file)

        with monkeypatch.context() as patch:
            patch.setattr(fingerprints, "_parsed", patched)
            patch.setattr(fingerprints, "code", fingerprints.code.__wrapped__)
            return runs.code(run)

    return code


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("traced")


# One a family in every run of the tests, all of them among the slow ones.
QUICK = (
    *("domain_adversarial", "fine_tuning", "fisher_merging", "hard_sharing"),
    *("label_mapping", "linear_probe", "logic_rules", "self_supervised"),
)
NAMES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(methods.names())
]


@pytest.mark.parametrize("name", NAMES)
def test_every_function_that_a_run_enters_is_in_its_hash(
    name, results, code_with
):
    statuses = set()
    for run in runs_of(name):
        found, record = entered(lambda run=run: carry_out(results, run))
        statuses.add(record["status"])
        assert record["status"] in ("ok", "not_applicable"), record["reason"]
        assert record["code"] == (before := code_with(run))
        for file, line in found:
            place = file.relative_to(PACKAGE).as_posix()
            top = functions(file).get(line)
            # What a class, a lambda or a module does stands in the others.
            idle = place in fingerprints.OUTSIDE
            idle = idle or (place, top) in {*fingerprints.CUT, *IDLE}
            if top is not None and not idle:
                changed = code_with(run, mutated(file, line))
                assert changed != before, f"{place}:{line} {top}"
    assert "ok" in statuses


def commented(text):
    """Put a comment before every statement of the module."""
    lines = text.splitlines()
    for node in reversed(ast.parse(text).body):
        lines.insert(node.lineno - 1, "# A comment.")
    return "\n".join(lines)


def documented_otherwise(text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        kinds = (*FUNCTIONS, ast.ClassDef, ast.Module)
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            node.body[0].value.value = "Something else."
    return ast.unparse(tree)


@pytest.mark.parametrize(
    "change",
    [
        commented,
        documented_otherwise,
        lambda text: f"import math as unused\n{text}",
        lambda text: ast.unparse(ast.parse(text)),
    ],
    ids=["comment", "docstring", "import", "layout"],
)
@pytest.mark.parametrize("name", ["fine_tuning", "distillation", "delta"])
def test_what_moves_no_number_moves_no_hash(name, change, code_with):
    run = next(runs_of(name))
    before = code_with(run)
    start = methods.path(name), "transfer"
    files = {file for file, _ in fingerprints.reached(start)}
    assert len(files) > 10
    for file in files:
        text = file.read_text(encoding="utf-8")
        module = fingerprints._Module(file, change(text))
        assert code_with(run, module) == before, file


def test_no_run_reaches_a_plot_or_a_report():
    for name in methods.names():
        starts = [(methods.path(name), "transfer")]
        starts += [(PACKAGE / "runs" / "carry_out.py", "measured")]
        for file, _ in fingerprints.reached(*starts):
            folder = file.relative_to(PACKAGE).parts[0]
            assert folder not in ("plots", "report", "analysis", "cli.py")
