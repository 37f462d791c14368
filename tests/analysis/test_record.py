"""A record is what its definition says, field by field, and nothing else."""

import ast
import types
import typing
from pathlib import Path

import pytest
from helpers import small_classifier
from sweeps import Here, planned, sourced
from synthetic import record

from ktransfer import fingerprints, runs
from ktransfer.analysis.record import CarriedOver, Record
from ktransfer.runs import refresh
from ktransfer.runs.sweep import sweep

HINTS = typing.get_type_hints(Record)


def fits(value, hint):
    """Tell whether a value that was read from JSON is of the type `hint`."""
    if hint is typing.Any:
        return True
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind is typing.Literal:
        return value in inner
    if kind is types.UnionType:
        return any(fits(value, one) for one in inner)
    if kind is list:
        return isinstance(value, list) and all(fits(x, *inner) for x in value)
    if kind is dict:
        return isinstance(value, dict) and all(
            fits(key, inner[0]) and fits(x, inner[1])
            for key, x in value.items()
        )
    if hint is CarriedOver:
        return set(value) == set(CarriedOver.__annotations__)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    # True is an int to Python.
    return type(value) is hint


def own_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "mine.keras"
    small_classifier().save(path)
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Records of tiny runs that ask for all that a run can ask for."""
    results = tmp_path_factory.mktemp("records")
    wanted = [
        *planned("majority", seeds=(0, 1, 2)),
        *sourced(
            "linear_probe",
            also=("digits_inverted",),
            scores=("leep",),
            recipe="label_smoothing",
            hyperparameters=(("learning_rate", 1e-2),),
        ),
        *sourced(
            "feature_extraction", evaluation="validation", labels_per_class=5
        ),
        *planned(
            "source_only",
            seeds=(0,),
            target="digits_dilated",
            labels_per_class=None,
            sources=("digits",),
            source_seed=0,
            source_steps=2,
            evaluation="information",
        ),
        *planned("majority", seeds=(0,), target="letters"),
        *planned(
            "linear_probe",
            seeds=(0,),
            source_models=(str(own_model(tmp_path_factory)),),
        ),
        # It needs BatchNorm.
        *sourced("normalization_tuning"),
    ]
    sweep(wanted, results, Here(), choice="chosen")
    code = fingerprints.code
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fingerprints, "code", lambda *a, **k: f"new {code(*a, **k)}"
        )
        refresh.refresh(wanted[:3], results, Here(), share=0.1, choice="chosen")
    return runs.collect(results, wanted, "chosen")


def test_the_fields_of_real_records_are_those_of_the_definition(real):
    for one in real:
        assert Record.__required_keys__ <= set(one), one["method"]
    assert set().union(*real) == set(Record.__annotations__)
    assert {one["status"] for one in real} == {"ok", "not_applicable"}


def test_what_real_records_hold_is_of_the_types_of_the_definition(real):
    for one in real:
        for name, value in one.items():
            assert fits(value, HINTS[name]), (one["method"], name, value)


def test_a_value_of_another_type_does_not_fit():
    for name, value in (
        ("seed", 1.0),
        ("seed", True),
        ("seconds", "2"),
        ("status", "great"),
        ("sources", [1]),
        ("sources", "ab"),
        ("hyperparameters", {1: 2}),
        ("labels_per_class", 1.5),
        ("carried_over", {"rerun": 1}),
    ):
        assert not fits(value, HINTS[name]), (name, value)


def test_every_field_has_a_comment():
    file = Path(typing.sys.modules[Record.__module__].__file__)
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [
        node
        for top in ast.parse("\n".join(lines)).body
        if isinstance(top, ast.ClassDef)
        for node in top.body
        if isinstance(node, ast.AnnAssign)
    ]
    assert len(found) == len(HINTS) + 3
    for node in found:
        assert lines[node.lineno - 2].strip().startswith("# "), node.lineno


def test_a_planted_record_has_the_fields_of_a_real_one():
    planted = record()
    assert set(planted) == Record.__required_keys__ | {"stale"}
    for name, value in planted.items():
        assert fits(value, HINTS[name]), name
    with pytest.raises(AssertionError, match="test_acuracy"):
        record(test_acuracy=0.5)
