"""Records are carried over a change of code only if a sample says so."""

import pytest
from sweeps import Here, planned

from ktransfer import fingerprints, runs
from ktransfer.errors import KTransferError
from ktransfer.runs import carry_out, refresh
from ktransfer.runs.sweep import sweep

METHODS = "majority", "logistic_regression"
SEEDS = range(4)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Eight runs on record, by a code that was changed since."""
    wanted = planned(*METHODS, seeds=SEEDS)
    sweep(wanted, tmp_path, Here())
    code = fingerprints.code
    monkeypatch.setattr(
        fingerprints, "code", lambda *a, **k: f"new {code(*a, **k)}"
    )
    return wanted, tmp_path


def records(results, wanted):
    return [runs.find(results, run) for run in wanted]


def test_where_no_number_moved_the_rest_takes_the_new_fingerprint(recorded):
    wanted, results = recorded
    old = records(results, wanted)
    assert all(r["stale"] for r in runs.collect(results, wanted))
    found = refresh.refresh(wanted, results, Here(), share=0.5)
    assert (found.stale, found.rerun, found.carried) == (8, 4, 4)
    assert not found.changes
    new = records(results, wanted)
    assert not any(r["stale"] for r in runs.collect(results, wanted))
    over = [r["carried_over"] for r in new if "carried_over" in r]
    assert len(over) == 4
    assert {(x["rerun"], x["of"]) for x in over} == {(4, 8)}
    for before, after in zip(old, new):
        for field in {*before, *after} - {*refresh._ABOUT}:
            assert before[field] == after[field]
    assert sweep(wanted, results, Here()) == (0, 0)
    assert not (results / ".refresh").exists()


def test_one_difference_and_nothing_is_carried_over(recorded, monkeypatch):
    wanted, results = recorded
    before = records(results, wanted)
    measured = carry_out.measured

    def other(run, sources, hold):
        found = measured(run, sources, hold)
        if run.method == "logistic_regression":
            found["test_loss"] += 1e-9
        return found

    monkeypatch.setattr(carry_out, "measured", other)
    found = refresh.refresh(wanted, results, Here(), share=0.1)
    assert found.carried == 0 and found.rerun == 2
    ((run, field, was, now),) = found.changes
    assert (run.method, field) == ("logistic_regression", "test_loss")
    assert now == was + 1e-9
    assert records(results, wanted) == before
    assert all(r["stale"] for r in runs.collect(results, wanted))


def test_a_field_that_older_records_lack_has_not_moved(recorded):
    wanted, results = recorded
    for old in records(results, wanted):
        del old["balanced_accuracy"], old["confusion"]
        runs.write(results, old)
    found = refresh.refresh(wanted, results, Here(), share=0.5)
    assert (found.rerun, found.carried, found.changes) == (4, 4, [])
    assert sum("confusion" in r for r in records(results, wanted)) == 4


@pytest.mark.parametrize("field", ["balanced_accuracy", "test_loss"])
def test_a_field_that_is_not_there_any_more_has_moved(
    recorded, monkeypatch, field
):
    wanted, results = recorded
    measured = carry_out.measured

    def without(run, *given):
        found = measured(run, *given)
        return {key: x for key, x in found.items() if key != field}

    monkeypatch.setattr(carry_out, "measured", without)
    found = refresh.refresh(wanted, results, Here(), share=0.1)
    assert {change[1] for change in found.changes} == {field}
    assert found.carried == 0


def test_fresh_failed_and_otherwise_chosen_records_stay(recorded):
    wanted, results = recorded
    failed = {**runs.find(results, wanted[0]), "status": "failed"}
    chosen = {**runs.find(results, wanted[1]), "choice": "another"}
    for record in failed, chosen:
        runs.write(results, record)
    found = refresh.refresh(wanted, results, Here(), share=1.0)
    assert (found.stale, found.rerun, found.carried) == (6, 6, 0)
    assert refresh.refresh(wanted, results, Here(), share=1.0).stale == 0


def test_the_sample_has_every_arm_and_budget():
    wanted = [
        run._replace(labels_per_class=labels)
        for run in planned(*METHODS, seeds=range(10))
        for labels in (1, 2, None)
    ]
    for share, each in ((0.01, 1), (0.1, 1), (0.25, 3), (1.0, 10)):
        chosen = refresh.sample(wanted, share)
        assert len(set(chosen)) == len(chosen) == each * len(METHODS) * 3
        cells = {(r.method, r.labels_per_class) for r in chosen}
        assert len(cells) == 6
        assert refresh.sample(wanted[::-1], share) != [] and set(
            refresh.sample(wanted[::-1], share)
        ) == set(chosen)


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(tmp_path, share):
    with pytest.raises(KTransferError, match="sample"):
        refresh.refresh([], tmp_path, Here(), share=share)
