"""What came out of runs: by record, by seed, and in pairs."""

import numpy as np
import pytest
from synthetic import record

from ktransfer.analysis import outcomes
from ktransfer.errors import KTransferError


def test_values_of_seeds_are_of_any_key():
    records = [
        record(seed=seed, source_seed=source, test_loss=seed + source / 10)
        for seed in range(3)
        for source in range(2)
    ]
    records.append(record(seed=3, status="failed", reason="killed"))
    found = outcomes.seed_values(
        records, key=lambda r: r["test_loss"] or np.nan
    )
    np.testing.assert_allclose(found, [0.1, 1.05, 2.05])
    assert outcomes.seed_values(records).tolist() == [0.8] * 3


def test_accuracy_on_another_task():
    one = record(also=["shifted"], also_accuracies={"shifted": 0.25})
    assert outcomes.accuracy_on("shifted")(one) == 0.25
    assert np.isnan(outcomes.accuracy_on("other")(one))
    assert outcomes.accuracy_on("shifted")(record(status="diverged")) == 0
    assert np.isnan(outcomes.accuracy_on("shifted")(record(status="failed")))


def test_a_source_free_baseline_pairs_with_each_source_seed():
    arm = [
        record(seed=s, source_seed=t, test_accuracy=0.80 + 0.01 * s + 0.02 * t)
        for s in range(3)
        for t in range(2)
    ]
    scratch = [
        record("scratch", seed=s, test_accuracy=0.70 + 0.01 * s)
        for s in reversed(range(3))
    ]
    pairs = outcomes.pair(arm, scratch)
    assert [unit[2] for unit in pairs.units] == [0, 1, 2]
    assert pairs.values == pytest.approx([0.81, 0.82, 0.83])
    assert pairs.baselines == pytest.approx([0.70, 0.71, 0.72])
    turned = outcomes.pair(scratch, arm)
    assert turned.values == pytest.approx(pairs.baselines)
    assert turned.baselines == pytest.approx(pairs.values)


def test_only_common_units_are_paired():
    arm = [
        record(seed=s, source_seed=t, test_accuracy=0.8 + t / 10)
        for s, t in ((0, 0), (0, 1), (1, 0), (2, 0))
    ]
    other = [
        record(seed=s, source_seed=t, test_accuracy=0.5)
        for s, t in ((0, 1), (1, 1), (2, 0))
    ]
    pairs = outcomes.pair(arm, other)
    assert [unit[2] for unit in pairs.units] == [0, 2]
    assert pairs.values == pytest.approx([0.9, 0.8])
    assert len(outcomes.pair(arm, []).units) == 0


def test_a_run_recorded_twice_is_refused():
    with pytest.raises(KTransferError, match="twice") as caught:
        outcomes.pair([record(), record()], [record("scratch")])
    assert caught.value.name == "E_RECORD"
