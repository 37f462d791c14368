"""Intervals, tests and pairing against SciPy, closed forms and simulation."""

import itertools
import math

import numpy as np
import pytest
from synthetic import headline, record, sweep

from ktransfer.analysis import arms, intervals
from ktransfer.errors import KTransferError


@pytest.mark.parametrize("degrees", [0.5, 1, 2, 4, 9, 60, 1000])
def test_t_quantile_agrees_with_scipy(degrees):
    scipy_statistics = pytest.importorskip("scipy.stats")
    for probability in (1e-6, 0.01, 0.3, 0.51, 0.8, 0.975, 1 - 1e-6):
        expected = scipy_statistics.t.ppf(probability, degrees)
        found = intervals.t_quantile(probability, degrees)
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert abs(intervals.t_quantile(0.5, degrees)) < 1e-10


@pytest.mark.parametrize("arguments", [(0.0, 3), (1.0, 3), (0.5, 0), (2, 3)])
def test_t_quantile_refuses(arguments):
    with pytest.raises(ValueError, match="probability"):
        intervals.t_quantile(*arguments)


def test_t_test_agrees_with_scipy():
    scipy_statistics = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).normal(0.4, 1.0, 7)
    expected = scipy_statistics.ttest_1samp(values, 0.0)
    found = intervals.t_test_p_value(values)
    assert found == pytest.approx(expected.pvalue, rel=1e-10)
    bounds = expected.confidence_interval(0.95)
    interval = intervals.mean_interval(values)
    assert interval[1:3] == pytest.approx(tuple(bounds), rel=1e-10)


def test_intervals_of_few_units():
    none = intervals.mean_interval([])
    assert none.count == 0
    assert all(math.isnan(value) for value in none[:3])
    one = intervals.mean_interval([0.5])
    assert (one.mean, one.count) == (0.5, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert intervals.mean_interval([0.5, 0.5])[:3] == (0.5, 0.5, 0.5)
    assert not intervals.negative_transfer(none)
    assert not intervals.negative_transfer(one)


@pytest.mark.parametrize("right", [0, 1, 37, 999, 1000])
def test_wilson_interval_agrees_with_scipy(right):
    scipy_statistics = pytest.importorskip("scipy.stats")
    found = intervals.wilson_interval(right / 1000, 1000)
    test = scipy_statistics.binomtest(right, 1000)
    expected = test.proportion_ci(0.95, method="wilson")
    assert found[1:3] == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high


def test_wilson_interval_of_nothing_is_nothing():
    assert np.isnan(intervals.wilson_interval(0.5, 0)[:3]).all()


def test_paired_interval_needs_equal_shapes():
    with pytest.raises(ValueError, match="equal shapes"):
        intervals.paired_interval([1.0, 2.0], [1.0])
    shifted = intervals.paired_interval([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    assert shifted == (1.0, 1.0, 1.0, 3)


@pytest.mark.parametrize("units", [3, 5, 10])
def test_interval_covers_the_mean_in_95_of_100(units):
    samples = np.random.default_rng(units).normal(0.3, 2.0, (10_000, units))
    interval = intervals.mean_interval(samples)
    covered = np.mean((interval.low <= 0.3) & (interval.high >= 0.3))
    assert 0.93 < covered < 0.97


def test_sign_flip_agrees_with_brute_force():
    values = np.random.default_rng(1).normal(0.5, 1.0, 9)
    signs = itertools.product((-1, 1), repeat=9)
    sums = [abs(np.dot(sign, values)) for sign in signs]
    expected = np.mean(np.array(sums) >= abs(values.sum()) - 1e-12)
    assert intervals.sign_flip_p_value(values) == expected


@pytest.mark.parametrize(
    ("units", "smallest"),
    [(3, 0.25), (4, 0.125), (5, 0.0625), (6, 0.03125), (10, 2 / 1024)],
)
def test_smallest_sign_flip_p_value(units, smallest):
    values = np.linspace(1.0, 2.0, units)
    assert intervals.sign_flip_p_value(values) == smallest
    assert intervals.sign_flip_p_value(-values) == smallest


def test_sign_flip_at_its_edges():
    assert math.isnan(intervals.sign_flip_p_value([]))
    assert math.isnan(intervals.sign_flip_p_value(np.ones(21)))
    assert intervals.sign_flip_p_value(np.zeros(5)) == 1.0
    # 0.1 + 0.2 and 0.3 tie in exact arithmetic only.
    assert intervals.sign_flip_p_value([0.1, 0.2, 0.3]) == 0.25
    assert intervals.sign_flip_p_value([0.1, 0.2, -0.3]) == 1.0
    assert intervals.sign_flip_p_value(np.ones(20)) == 2 / 2**20


def test_holm():
    adjusted = intervals.holm([0.04, math.nan, 0.01, 0.03])
    assert adjusted[[0, 2, 3]] == pytest.approx([0.06, 0.03, 0.06])
    assert math.isnan(adjusted[1])
    assert len(intervals.holm([])) == 0


def test_detectable_difference_is_that_of_the_table():
    for units, expected in ((5, 1.66), (10, 0.99), (20, 0.66)):
        values = np.random.default_rng(units).normal(size=units)
        found = intervals.detectable_difference(values / values.std(ddof=1))
        assert found == pytest.approx(expected, abs=0.01)


def test_verdicts_need_five_units():
    allowed = [intervals.verdict_allowed(count) for count in range(7)]
    assert allowed == [False] * 5 + [True] * 2


# --- Records ---------------------------------------------------------------


def _gain(records, arm, labels=10, baseline="scratch"):
    gains = intervals.gain_over(records, baseline)
    (found,) = (
        gain
        for cell, gain in gains.items()
        if (cell.labels_per_class, cell.arm.label) == (labels, arm)
    )
    return found


def test_the_seed_is_the_unit():
    gain = _gain(headline(6, 2), "feature_extraction")
    assert gain.interval.count == 6
    assert gain.seeds == list(range(6))
    assert gain.interval.mean == pytest.approx(0.07, abs=0.01)
    assert gain.sign_flip == 2 / 64


def test_the_baseline_has_no_gain_and_an_absent_one_gives_none():
    records = headline(5, 1, budgets=(10,))
    names = {cell.arm.method for cell in intervals.gain_over(records)}
    assert "scratch" not in names
    without = [r for r in records if r["method"] != "scratch"]
    gain = _gain(without, "fine_tuning")
    assert gain.interval.count == 0
    assert math.isnan(gain.interval.mean)
    assert math.isnan(gain.p_value)


def test_a_diverged_run_lowers_the_mean_and_a_failed_one_is_missing():
    records = headline(5, 1, budgets=(10,))
    before = _gain(records, "fine_tuning").interval
    own = [r for r in records if r["method"] == "fine_tuning"]
    own[2].update(status="diverged", test_accuracy=None)
    after = _gain(records, "fine_tuning").interval
    assert after.count == 5
    assert after.mean < before.mean - 0.15
    own[2].update(status="failed")
    assert _gain(records, "fine_tuning").interval.count == 4
    own[2].update(status="ok", test_accuracy=math.nan)
    assert _gain(records, "fine_tuning").interval == after


def test_planted_negative_transfer_is_flagged():
    records = headline(6, 2, budgets=(10,))
    assert intervals.negative_transfer(_gain(records, "fine_tuning").interval)
    better = _gain(records, "feature_extraction").interval
    assert not intervals.negative_transfer(better)


def test_an_arm_is_no_worse_than_itself():
    rng = np.random.default_rng(7)
    samples = rng.normal(0.8, 0.01, (2, 4_000, 5))
    differences = samples[0] - samples[1]
    interval = intervals.mean_interval(differences)
    assert 0.015 < np.mean(interval.high < 0.0) < 0.035
    same = intervals.paired_interval(samples[0, 0], samples[0, 0])
    assert not intervals.negative_transfer(same)


def test_records_that_should_not_meet_are_refused():
    records = [record(), record(seed=1, numerics="0000")]
    with pytest.raises(KTransferError, match="numeric environments") as caught:
        arms.require_comparable(records)
    assert caught.value.name == "E_RECORD"
    assert arms.require_comparable(records, mix=True) == 2
    origins = [record(), record(seed=1, target_origin="MNIST-C10bg")]
    with pytest.raises(KTransferError, match="different data"):
        arms.require_comparable(origins, mix=True)
    assert arms.require_comparable(sweep()) == 1


def test_spearman_is_that_of_scipy():
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, 6, (2, 15))
        expected = scipy_stats.spearmanr(first, second).statistic
        found = intervals.spearman(first, second)
        assert found == pytest.approx(expected, abs=1e-12)
    assert np.isnan(intervals.spearman([1, 1], [1, 2]))


# Demsar, JMLR 7, 2006, table 5 (a): the quantile over sqrt(2), at 0.05.
@pytest.mark.parametrize(
    ("num_arms", "quantile"), [(2, 1.960), (3, 2.343), (6, 2.850), (10, 3.164)]
)
def test_critical_difference_is_that_of_the_published_table(num_arms, quantile):
    error = math.sqrt(num_arms * (num_arms + 1) / (6 * 8))
    found = intervals.critical_difference(num_arms, 8)
    assert found == pytest.approx(quantile * error, abs=1e-3 * error)


def test_ranks_begin_at_the_best_and_ties_share():
    values = [[0.9, 0.5, 0.5], [0.7, 0.8, 0.1]]
    np.testing.assert_allclose(intervals.mean_ranks(values), [1.5, 1.75, 2.75])


def test_bootstrap_of_rho_covers_it_and_is_the_same_twice():
    rng = np.random.default_rng(1)
    first = rng.normal(size=60)
    second = first + rng.normal(size=60)
    found = intervals.spearman_interval(first, second)
    assert found == intervals.spearman_interval(first, second)
    assert found.low < found.mean < found.high
    assert found.low > 0.3 and found.high < 0.95
    flat = intervals.spearman_interval(first, np.ones(60))
    assert math.isnan(flat.mean) and math.isnan(flat.low)


def test_pairs_of_one_group_are_drawn_together():
    """Ten times the same pair is one pair, and no surer for it."""
    rng = np.random.default_rng(1)
    first = rng.normal(size=12)
    second = first + rng.normal(size=12)
    alone = intervals.spearman_interval(first, second)
    tenfold = [np.repeat(values, 10) for values in (first, second)]
    groups = np.repeat([f"task {k}" for k in range(12)], 10)
    together = intervals.spearman_interval(*tenfold, groups)
    assert together.count == alone.count == 12
    assert together.low == pytest.approx(alone.low, abs=0.1)
    # As if they were 120 pairs.
    narrow = intervals.spearman_interval(*tenfold)
    assert narrow.low > together.low + 0.1


def test_pearson_interval_is_fishers():
    # r = 0.5 of 28 pairs: tanh(0.5493 -+ 1.96 / 5).
    rng = np.random.default_rng(2)
    x = rng.normal(size=28)
    x = (x - x.mean()) / x.std()
    noise = rng.normal(size=28)
    noise -= noise.mean() + x * (noise * x).mean()
    y = 0.5 * x + math.sqrt(0.75) * noise / noise.std()
    found = intervals.pearson_interval(x, y)
    assert found.mean == pytest.approx(0.5)
    assert found.low == pytest.approx(math.tanh(math.atanh(0.5) - 1.959964 / 5))
    assert found.high == pytest.approx(
        math.tanh(math.atanh(0.5) + 1.959964 / 5)
    )
    assert math.isnan(intervals.pearson_interval(x[:3], y[:3]).low)
