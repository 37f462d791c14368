"""Intervals and tests over seeds: what numbers, and gains, let one say.

NumPy only. Accuracies, gains and intervals are fractions (0 to 1), never
percentage points. What is compared with what, `arms` says.
"""

import functools
import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ktransfer.analysis.arms import Cell, Selector, baseline_arm, cells
from ktransfer.analysis.outcomes import pair
from ktransfer.analysis.record import Record

LEVEL = 0.95
POWER = 0.8
MINIMUM_UNITS = 5
LARGEST_ENUMERATION = 20
RESAMPLES = 2000
_TINY = 1e-300


class Interval(NamedTuple):
    """A mean, the two ends of its interval and the number of units.

    Below two units `low` and `high` are nan; without any, `mean` is nan too.
    The three are floats, or arrays of one shape.
    """

    mean: Any
    low: Any
    high: Any
    count: int  # type: ignore[assignment]


class Gain(NamedTuple):
    """The paired gain of a cell: interval, differences (units,), p-values.

    `p_value` is that of the t-test, `sign_flip` the exact one. `detectable`
    is the smallest gain found with 80 % power at this spread and count.
    """

    interval: Interval
    differences: np.ndarray
    seeds: list
    p_value: float
    sign_flip: float
    detectable: float


def incomplete_beta(x, a, b):
    """Return the regularised incomplete beta function I_x(a, b), scalars.

    Continued fraction by Lentz's method: Press et al., Numerical Recipes,
    third edition, section 6.4.
    """
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - incomplete_beta(1.0 - x, b, a)
    front = math.exp(
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(x)
        + b * math.log1p(-x)
    )
    return front * _beta_fraction(x, a, b) / a


def _beta_fraction(x, a, b):
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    result = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            result *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return result


def _away_from_zero(value):
    return value if abs(value) > _TINY else _TINY


def _upper_tail(t, degrees):
    # The small one of x and 1 - x is formed directly: it keeps its digits.
    if t < 1.0:
        x = t * t / (degrees + t * t)
        return 0.5 - 0.5 * incomplete_beta(x, 0.5, degrees / 2.0)
    x = degrees / (degrees + t * t)
    return 0.5 * incomplete_beta(x, degrees / 2.0, 0.5)


@functools.cache
def t_quantile(probability, degrees):
    """Return the quantile of Student's t, by bisection to float precision.

    Args:
        probability: between 0 and 1, both excluded.
        degrees: degrees of freedom, above 0.

    Raises:
        ValueError: when an argument is outside its range.
    """
    if not 0.0 < probability < 1.0 or not degrees > 0:
        raise ValueError(
            "expected 0 < probability < 1 and degrees > 0, "
            f"got {probability} and {degrees}"
        )
    if probability < 0.5:
        return -_upper_quantile(probability, degrees)
    return _upper_quantile(1.0 - probability, degrees)


def _upper_quantile(tail, degrees):
    low, high = 0.0, 1.0
    while _upper_tail(high, degrees) > tail:
        low, high = high, 2.0 * high
    while low < (middle := 0.5 * (low + high)) < high:
        if _upper_tail(middle, degrees) > tail:
            low = middle
        else:
            high = middle
    return middle


def mean_interval(values: ArrayLike) -> Interval:
    """Return the 95 % t-interval of the mean along the last axis.

    Args:
        values: shape (..., units).

    Returns:
        An `Interval` whose fields have shape (...); `low` and `high` are nan
        below two units.
    """
    values = np.asarray(values, dtype=float)
    count = values.shape[-1]
    nothing = np.full(values.shape[:-1], np.nan)[()]
    if count == 0:
        return Interval(nothing, nothing, nothing, 0)
    mean = values.mean(axis=-1)
    if count < 2:
        return Interval(mean, nothing, nothing, count)
    error = values.std(axis=-1, ddof=1) / math.sqrt(count)
    half = t_quantile(0.5 + LEVEL / 2.0, count - 1) * error
    return Interval(mean, mean - half, mean + half, count)


def wilson_interval(share, count):
    """Return Wilson's 95 % score interval of a share of `count` images.

    Unlike the textbook's interval it stays inside 0 to 1, and is not empty at
    the ends. Wilson, J. Am. Stat. Assoc. 22, 1927.

    Args:
        share: 0 to 1, of the images that are right.
        count: of images; without any, all but the count is nan.
    """
    if not count:
        return Interval(math.nan, math.nan, math.nan, 0)
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    weight = z * z / count
    middle = (share + weight / 2) / (1 + weight)
    inner = share * (1 - share) / count + weight / (4 * count)
    half = z * math.sqrt(inner) / (1 + weight)
    # At the ends it meets the share, but for rounding.
    low, high = min(middle - half, share), max(middle + half, share)
    return Interval(share, low, high, count)


def paired_interval(values, baseline):
    """Return the t-interval of `values - baseline`, unit by unit.

    Args:
        values, baseline: equal shapes (..., units), in one order of units.

    Raises:
        ValueError: when the shapes differ.
    """
    values, baseline = np.asarray(values), np.asarray(baseline)
    if values.shape != baseline.shape:
        raise ValueError(
            f"paired values need equal shapes, got {values.shape} and "
            f"{baseline.shape}"
        )
    return mean_interval(values - baseline)


def t_test_p_value(differences):
    """Return the two-sided p-value of mean zero; nan below two units."""
    differences = np.asarray(differences, dtype=float)
    count = len(differences)
    if count < 2:
        return math.nan
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    if error == 0.0:
        return float(mean == 0.0)
    return 2.0 * _upper_tail(abs(mean) / error, count - 1)


def sign_flip_p_value(differences):
    """Return the exact two-sided sign-flip p-value of the mean.

    All 2**units assignments of signs are enumerated, so the answer is exact;
    it is nan without units and above 20 of them.
    """
    differences = np.asarray(differences, dtype=float)
    if not 0 < len(differences) <= LARGEST_ENUMERATION:
        return math.nan
    # A global flip leaves |sum| as it is: the first sign can stay fixed.
    sums = differences[:1]
    for difference in differences[1:]:
        sums = np.concatenate([sums + difference, sums - difference])
    # Sums that tie in exact arithmetic differ by rounding here.
    slack = 1e-12 * np.abs(differences).sum()
    return float(np.mean(np.abs(sums) >= abs(differences.sum()) - slack))


def spearman(first, second):
    """Return Spearman's rank correlation; equal values share their mean rank.

    Args:
        first, second: `(n,)`.

    Returns:
        a number from -1 to 1, nan where one side is constant but for its last
        bits.
    """
    if any(map(_is_constant, (first, second))):
        return math.nan
    ranks = [_ranks(np.asarray(values, float)) for values in (first, second)]
    centred = [rank - rank.mean() for rank in ranks]
    norm = math.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / norm)


def _is_constant(values):
    return bool(np.ptp(values) <= 1e-9 * np.max(np.abs(values)))


def _ranks(values):
    _, places, counts = np.unique(
        values, return_inverse=True, return_counts=True
    )
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]


def spearman_interval(first, second, groups=None):
    """Return `spearman` with its bootstrap interval over groups of pairs.

    The 2.5 and 97.5 % quantiles of 2,000 resamples, drawn with one fixed seed.

    Args:
        first, second: `(n,)`.
        groups: `(n,)`, what tells the pairs apart that are drawn together,
            since they depend on each other; None draws each pair by itself.

    Returns:
        an `Interval` over the number of groups.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if groups is None:
        groups = np.arange(len(first))
    _, places = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(places == k) for k in range(places.max() + 1)]
    rho, count = spearman(first, second), len(members)
    if math.isnan(rho):
        return Interval(rho, math.nan, math.nan, count)
    found = _resampled(first, second, members)
    low, high = np.nanquantile(found, (0.5 - LEVEL / 2, 0.5 + LEVEL / 2))
    return Interval(rho, float(low), float(high), count)


def _resampled(first, second, members):
    """Return `spearman` of each resample; `members` are the rows of a group."""
    rng, count = np.random.default_rng(0), len(members)
    found = []
    for drawn in rng.integers(count, size=(RESAMPLES, count)):
        rows = np.concatenate([members[k] for k in drawn])
        found.append(spearman(first[rows], second[rows]))
    return found


def pearson_interval(first, second):
    """Return Pearson's correlation with the interval of Fisher's z.

    Args:
        first, second: `(n,)`; below four pairs the interval is nan.

    Returns:
        an `Interval`; all nan where one side is constant.
    """
    count = len(first)
    if any(map(_is_constant, (first, second))):
        return Interval(math.nan, math.nan, math.nan, count)
    r = float(np.corrcoef(first, second)[0, 1])
    if count < 4:
        return Interval(r, math.nan, math.nan, count)
    half = NormalDist().inv_cdf(0.5 + LEVEL / 2) / math.sqrt(count - 3)
    z = math.atanh(min(max(r, -1 + 1e-15), 1 - 1e-15))
    return Interval(r, math.tanh(z - half), math.tanh(z + half), count)


def mean_ranks(values):
    """Return the mean rank of each arm, 1 for the best; ties share theirs.

    Args:
        values: `(units, arms)`, the larger the better.
    """
    return np.mean([_ranks(-row) for row in np.asarray(values, float)], axis=0)


@functools.cache
def critical_difference(num_arms, num_units):
    """Return the difference of two mean ranks that Nemenyi's test calls real.

    At 5 % for all pairs of arms together: the quantile of the range of
    `num_arms` normal variables over sqrt(2), times the standard error of a
    difference of ranks. Demsar, JMLR 7, 2006, section 3.2.2.
    """
    error = math.sqrt(num_arms * (num_arms + 1) / (6 * num_units))
    return _range_quantile(num_arms) / math.sqrt(2) * error


def _range_quantile(count):
    """Return the 95 % quantile of the range of `count` normal variables."""
    z = np.linspace(-9.0, 9.0, 1801)
    normal = NormalDist()
    density = np.array([normal.pdf(x) for x in z])
    below = np.array([normal.cdf(x) for x in z])

    def probability(width):
        other = np.array([normal.cdf(x - width) for x in z])
        inside = density * (below - other) ** (count - 1)
        return count * inside.sum() * (z[1] - z[0])

    low, high = 0.0, 20.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if probability(middle) < LEVEL:
            low = middle
        else:
            high = middle
    return high


def holm(p_values):
    """Return Holm's adjusted p-values, shape (tests,); nan stays nan.

    A nan is a test that was not made and does not count as one. Holm, A
    simple sequentially rejective procedure, 1979.
    """
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, np.nan)
    made = np.flatnonzero(~np.isnan(p_values))
    order = made[np.argsort(p_values[made], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    steps = np.maximum.accumulate(p_values[order] * factors)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def detectable_difference(differences):
    """Return the smallest mean that a t-test finds with 80 % power.

    The usual sum of two quantiles, scaled by the standard error of the
    `differences` (units,); nan below two units.
    """
    differences = np.asarray(differences, dtype=float)
    count = len(differences)
    if count < 2:
        return math.nan
    quantiles = t_quantile(0.5 + LEVEL / 2.0, count - 1)
    quantiles += t_quantile(POWER, count - 1)
    return quantiles * float(differences.std(ddof=1)) / math.sqrt(count)


def verdict_allowed(count):
    """Return whether `count` units are enough for a verdict: five are."""
    return count >= MINIMUM_UNITS


def negative_transfer(interval):
    """Return whether the paired gain's upper bound lies below 0.

    It speaks of the interval alone; ask `verdict_allowed` of its count before
    printing it as a verdict. An interval without bounds is never negative.
    """
    return bool(interval.high < 0.0)


def gain_over(
    records: Iterable[Record], baseline: Selector = "scratch"
) -> dict[Cell, Gain]:
    """Return the paired gain of every cell over the baseline's.

    Args:
        records: any number of arms, targets and budgets.
        baseline: a method with one arm, or fields that select an arm.

    Returns:
        A dict `Cell` -> `Gain`, without the baseline's own cells. A cell that
        shares no unit with the baseline has a gain of nan over 0 units.

    Raises:
        KTransferError: see `arms.baseline_arm` and `outcomes.pair`.
    """
    records = list(records)
    groups = cells(records)
    other = baseline_arm(records, baseline)
    gains: dict[Cell, Gain] = {}
    for cell, members in groups.items():
        if cell.arm == other:
            continue
        beside = [] if other is None else groups.get(cell._replace(arm=other))
        pairs = pair(members, beside or [])
        differences = pairs.values - pairs.baselines
        gains[cell] = Gain(
            mean_interval(differences),
            differences,
            [unit[2] for unit in pairs.units],
            t_test_p_value(differences),
            sign_flip_p_value(differences),
            detectable_difference(differences),
        )
    return gains
