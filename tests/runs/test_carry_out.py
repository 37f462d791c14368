"""One run: its record says what was done, and what went wrong."""

import gc

import numpy as np
import pytest
from sweeps import Here, planned, sourced

from ktransfer import data, runs
from ktransfer.engine import programs
from ktransfer.errors import Diverged, KTransferError, NotApplicable
from ktransfer.measures import evaluation
from ktransfer.runs import carry_out
from ktransfer.runs.sweep import sweep


def test_no_graph_of_a_run_stays(tmp_path):
    from tensorflow.python.framework.func_graph import FuncGraph

    def graphs():
        gc.collect()
        return sum(isinstance(x, FuncGraph) for x in gc.get_objects())

    before = graphs()
    for run in sourced("fine_tuning", seeds=(0, 1)):
        assert carry_out.carry_out(tmp_path, run)["status"] == "ok"
    # But for the programs that the next run may use.
    programs.forget()
    assert graphs() <= before


def test_a_record_says_what_was_done(tmp_path):
    (run,) = sourced("feature_extraction")
    record = carry_out.carry_out(tmp_path, run)
    test = data.test_split("digits")
    right = record["test_accuracy"] * len(test.y)
    assert right == pytest.approx(round(right), abs=1e-9)
    assert record["num_test_images"] == len(test.y) == 1000
    assert record["steps_done"] == 2
    assert record["trainable_parameters"] == 529_930
    assert record["frozen_layers"] == [
        "block1_conv",
        "block2_conv",
        "block3_conv",
    ]
    assert record["trained_layers"] == ["head_hidden", "logits"]
    assert record["moved"] == {"block1": 0.0, "block2": 0.0, "block3": 0.0}
    (tuned,) = sourced("fine_tuning")
    moved = carry_out.carry_out(tmp_path, tuned)["moved"]
    assert set(moved) == {"block1", "block2", "block3"}
    assert all(0 < distance < 1 for distance in moved.values())
    assert record["num_labels"] == 10
    assert record["source_origins"] == [data.load("letters_0to4").origin]
    assert np.mean(record["per_class_accuracy"]) == pytest.approx(
        record["test_accuracy"], abs=1e-5
    )
    assert record["curve"][-1][0] == 2


def test_a_record_names_the_classes_that_have_names(tmp_path):
    (named,) = planned("majority", seeds=(0,), target="letters_0_9")
    record = carry_out.carry_out(tmp_path, named)
    assert record["labels"] == ["B", "R"]
    assert record["balanced_accuracy"] == 0.5
    assert "confusion" not in record
    (numbered,) = planned("majority", seeds=(0,))
    record = carry_out.carry_out(tmp_path, numbered)
    assert "labels" not in record
    assert np.sum(record["confusion"]) == record["num_test_images"]


def test_the_model_that_is_kept_is_that_of_the_record(tmp_path):
    (run,) = sourced("fine_tuning")
    plain, kept = carry_out.carry_out(tmp_path, run), []
    assert runs.is_fresh(runs.find(tmp_path, run), run)
    record = carry_out.carry_out(
        tmp_path, run, keep=lambda *given: kept.append(given)
    )
    ((model, task, given),) = kept
    assert given == record and task.labels == data.load("digits").labels
    for name in {*plain, *record} - {"schema", "seconds", "sha256"}:
        assert record[name] == plain[name], name
    assert runs.find(tmp_path, run)["seconds"] == record["seconds"]
    measured = evaluation.evaluate(model, "digits")
    assert measured["test_loss"] == record["test_loss"]


def test_nothing_is_kept_of_a_run_that_did_not_end_well(tmp_path, monkeypatch):
    def raising(name):
        def transfer(*args, **kwargs):
            raise NotApplicable("it needs BatchNorm")

        return transfer

    monkeypatch.setattr(carry_out.methods, "load", raising)
    (run,) = planned("majority", seeds=(0,))
    record = carry_out.carry_out(tmp_path, run, keep=lambda *given: 1 / 0)
    assert record["status"] == "not_applicable"


def test_a_record_says_how_many_labels_classes_have(tmp_path, monkeypatch):
    load = data.load

    def unequal(name, labels_per_class=None, seed=0):
        task = load(name, labels_per_class, seed)
        rows = np.flatnonzero((task.train.y != 3) | (np.arange(50) % 2 == 0))
        train = data.Split(task.train.x[rows], task.train.y[rows])
        return task._replace(train=train)

    (run,) = planned("majority", seeds=(0,), labels_per_class=5)
    assert carry_out.carry_out(tmp_path, run)["label_range"] == [5, 5]
    monkeypatch.setattr(data, "load", unequal)
    least, most = carry_out.measured(run, [])["label_range"]
    assert (least < 5, most) == (True, 5)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotApplicable("it needs BatchNorm"), "not_applicable"),
        (Diverged("a kernel is not finite"), "diverged"),
        (KeyError("a bug"), "failed"),
    ],
)
def test_what_goes_wrong_is_recorded(tmp_path, monkeypatch, error, status):
    def raising(name):
        def transfer(*args, **kwargs):
            raise error

        return transfer

    monkeypatch.setattr(carry_out.methods, "load", raising)
    (run,) = planned("majority", seeds=(0,))
    record = carry_out.carry_out(tmp_path, run)
    assert record["status"] == status and record["reason"]
    assert record["test_accuracy"] is None
    kept = runs.find(tmp_path, run)
    assert runs.is_fresh(kept, run) == (status != "failed")
    assert sweep([run], tmp_path, Here())[1] == (status == "failed")


def test_memory_and_disk_leave_no_record(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(carry_out.methods, "load", lambda name: full)
    (run,) = planned("majority", seeds=(0,))
    with pytest.raises(KTransferError) as caught:
        carry_out.carry_out(tmp_path, run)
    assert caught.value.name == "E_MEMORY"
    assert runs.find(tmp_path, run) is None


def test_a_method_cannot_open_the_test_split(tmp_path, monkeypatch):
    def peeking(target, **options):
        return data.test_split(target.name)

    monkeypatch.setattr(carry_out.methods, "load", lambda name: peeking)
    (run,) = planned("majority", seeds=(0,))
    record = carry_out.carry_out(tmp_path, run)
    assert record["status"] == "failed" and "test split" in record["reason"]


def adds(source):
    source.model.weights[0].assign(source.model.weights[0] + 1)


def freezes(source):
    source.model.layers[-1].trainable = False


def diverges(source):
    adds(source)
    raise Diverged("far away")


@pytest.mark.parametrize("vandal", [adds, freezes, diverges])
def test_a_method_that_changes_its_source_harms_no_other(
    tmp_path, monkeypatch, vandal
):
    first, second = sourced("fine_tuning", seeds=(0, 1))
    wanted = carry_out.carry_out(tmp_path / "alone", second)
    with monkeypatch.context() as patch:
        patch.setattr(
            carry_out.methods,
            "load",
            lambda name: lambda target, source, **options: vandal(source),
        )
        record = carry_out.carry_out(tmp_path, first)
    assert record["status"] in ("failed", "diverged")
    assert "source" in record["reason"] or vandal is diverges
    found = carry_out.carry_out(tmp_path, second)
    assert found["test_loss"] == wanted["test_loss"]
