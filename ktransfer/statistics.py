"""Paired intervals over seeds: what a set of records lets one say.

Pure functions of numbers and records, NumPy only. Accuracies, gains and
intervals are fractions (0 to 1), never percentage points. A record is the
dict that `runs` reads; an *arm* is one method at one setting; a *cell* is one
arm on one target at one number of labels per class.
"""

import functools
import json
import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from ktransfer.errors import KTransferError

CONTROLS = ("scratch", "random_features", "majority")
LEVEL = 0.95
MINIMUM_UNITS = 5
LARGEST_ENUMERATION = 20


class Interval(NamedTuple):
    """A mean, the two ends of its interval and the number of units.

    Below two units `low` and `high` are nan; without any, `mean` is nan too.
    """

    mean: float
    low: float
    high: float
    count: int  # type: ignore[assignment]


class Pairs(NamedTuple):
    """Accuracies of an arm and of its baseline on the units both have.

    `units` is a list of (target, labels_per_class, seed); `values` and
    `baselines` have shape (units,) and are averages over source seeds.
    """

    units: list
    values: np.ndarray
    baselines: np.ndarray


class Cell(NamedTuple):
    """The key of a cell; `labels_per_class` is None for all labels."""

    target: str
    labels_per_class: int | None
    arm: str


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


# --- Student's t -----------------------------------------------------------


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
    tiny = 1e-300
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0), tiny)
    result = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d, tiny)
            c = _away_from_zero(1.0 + term / c, tiny)
            result *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return result


def _away_from_zero(value, tiny):
    return value if abs(value) > tiny else tiny


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


# --- Intervals and tests over units ----------------------------------------


def mean_interval(values, level=LEVEL):
    """Return the two-sided t-interval of the mean along the last axis.

    Args:
        values: shape (..., units).
        level: coverage of the interval.

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
    half = t_quantile(0.5 + level / 2.0, count - 1) * error
    return Interval(mean, mean - half, mean + half, count)


def paired_interval(values, baseline, level=LEVEL):
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
    return mean_interval(values - baseline, level)


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


def detectable_difference(differences, power=0.8, level=LEVEL):
    """Return the smallest mean that a t-test finds with this `power`.

    The usual sum of two quantiles, scaled by the standard error of the
    `differences` (units,); nan below two units.
    """
    differences = np.asarray(differences, dtype=float)
    count = len(differences)
    if count < 2:
        return math.nan
    quantiles = t_quantile(0.5 + level / 2.0, count - 1)
    quantiles += t_quantile(power, count - 1)
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


# --- Records ---------------------------------------------------------------


def accuracy(record):
    """Return a record's test accuracy as it enters an aggregate.

    A diverged run counts with the worst value there is, 0. A failed or
    inapplicable one has no value: nan.
    """
    if record["status"] not in ("ok", "diverged"):
        return math.nan
    if diverged(record):
        return 0.0
    return float(record["test_accuracy"])


def diverged(record):
    """Return whether a run left the finite numbers, its metric included."""
    if record["status"] == "diverged":
        return True
    value = record.get("test_accuracy")
    return record["status"] == "ok" and (
        value is None or not math.isfinite(value)
    )


def require_comparable(records, mix=False):
    """Refuse records that should not share a table; return the environments.

    Args:
        records: the records of one table or figure.
        mix: accept several numeric environments.

    Returns:
        The number of numeric environments that made the measured records.

    Raises:
        KTransferError: `E_RECORD` for one target of several origins, or for
            several environments without `mix`.
    """
    measured = [r for r in records if r["status"] in ("ok", "diverged")]
    origins = {}
    for record in measured:
        origins.setdefault(record["target"], set()).add(
            record.get("target_origin")
        )
    for target, names in origins.items():
        if len(names) > 1:
            raise KTransferError(
                "E_RECORD",
                f"target {target!r} has records of different data: "
                f"{', '.join(sorted(map(str, names)))}; expected one origin. "
                "Rerun the experiment on one of them.",
            )
    environments = {record.get("numerics") for record in measured}
    if len(environments) > 1 and not mix:
        raise KTransferError(
            "E_RECORD",
            f"records of {len(environments)} numeric environments "
            f"({', '.join(sorted(map(str, environments)))}); expected one. "
            "Rerun the older records, or mix them knowingly with mix=True.",
        )
    return len(environments)


def ordered(records):
    """Return the records in one order, whatever the order they came in."""
    return sorted(records, key=_record_order)


def _record_order(record):
    labels, source_seed = record["labels_per_class"], record.get("source_seed")
    return (
        record["target"],
        math.inf if labels is None else labels,
        record["method"],
        json.dumps(_settings(record), sort_keys=True),
        record.get("steps") or 0,
        record["seed"],
        -1 if source_seed is None else source_seed,
    )


def arms(records):
    """Group records by arm, the method at one setting.

    Returns:
        A dict from label to records, in the order of first appearance. The
        label is the method's name; where its records differ in sources or
        hyper-parameters these follow in brackets, and so does a number of
        steps that is not the usual one of its target and label budget.
    """
    varying = _varying_settings(records)
    usual = _usual_steps(records)
    groups = {}
    for record in records:
        label = _arm_label(record, varying[record["method"]], usual)
        groups.setdefault(label, []).append(record)
    return groups


def _settings(record):
    settings = dict(record.get("hyperparameters") or {})
    settings["from"] = "+".join(record.get("sources") or ())
    return {key: json.dumps(settings[key]) for key in settings}


def _varying_settings(records):
    seen = {}
    for record in records:
        seen.setdefault(record["method"], []).append(_settings(record))
    return {
        method: sorted(
            key
            for key in set().union(*settings)
            if len({setting.get(key) for setting in settings}) > 1
        )
        for method, settings in seen.items()
    }


def _usual_steps(records):
    methods = {
        (r["target"], r["labels_per_class"], r["method"], r.get("steps"))
        for r in records
        if r.get("steps") and r["status"] != "not_applicable"
    }
    counts = {}
    for target, labels, _, steps in methods:
        counts.setdefault((target, labels), Counter())[steps] += 1
    return {
        place: min(count, key=lambda steps: (-count[steps], steps))
        for place, count in counts.items()
    }


def _arm_label(record, varying, usual):
    settings = dict(record.get("hyperparameters") or {})
    parts = []
    for key in varying:
        if key == "from":
            parts.append(f"from {'+'.join(record.get('sources') or ('none',))}")
        elif key in settings:
            value = settings[key]
            text = value if isinstance(value, str) else json.dumps(value)
            parts.append(f"{key}={text}")
    reference = usual.get((record["target"], record["labels_per_class"]))
    steps = record.get("steps")
    if steps and reference and steps != reference:
        parts.append(f"{steps / reference:.3g}x steps")
    method = record["method"]
    return f"{method} ({', '.join(parts)})" if parts else method


def _source_seeds(records):
    """Group accuracies: unit -> source seed -> accuracy."""
    units = {}
    for record in records:
        if math.isnan(value := accuracy(record)):
            continue
        key = record["target"], record["labels_per_class"], record["seed"]
        seeds = units.setdefault(key, {})
        source_seed = record.get("source_seed")
        if source_seed in seeds:
            raise KTransferError(
                "E_RECORD",
                f"{record['method']}: seed {record['seed']} with source seed "
                f"{source_seed} was recorded twice for one arm on "
                f"{record['target']!r}; expected one record a run. Remove one.",
            )
        seeds[source_seed] = value
    return units


def _order(unit):
    target, labels, seed = unit
    return target, math.inf if labels is None else labels, seed


def seed_accuracies(records):
    """Return a cell's accuracies, averaged over source seeds.

    Returns:
        (seeds, values): a sorted list and an array of shape (seeds,).

    Raises:
        KTransferError: `E_RECORD` when one run was recorded twice.
    """
    units = _source_seeds(records)
    ordered = sorted(units, key=_order)
    values = [np.mean(list(units[unit].values())) for unit in ordered]
    return [unit[2] for unit in ordered], np.array(values, dtype=float)


def pair(records, baseline_records):
    """Join an arm with its baseline, unit by unit.

    Runs meet on target, labels per class, seed and source seed; a run without
    a source meets every source seed of the other side. The seed is the unit
    of replication, so source seeds are averaged here.

    Returns:
        `Pairs`, sorted by unit; units that one side lacks are not in it.

    Raises:
        KTransferError: `E_RECORD` when one run was recorded twice.
    """
    left, right = _source_seeds(records), _source_seeds(baseline_records)
    units, values, baselines = [], [], []
    for unit in sorted(left.keys() & right.keys(), key=_order):
        matched = _match(left[unit], right[unit])
        if matched:
            units.append(unit)
            values.append(np.mean([value for value, _ in matched]))
            baselines.append(np.mean([value for _, value in matched]))
    return Pairs(
        units, np.array(values, dtype=float), np.array(baselines, dtype=float)
    )


def _match(values, baselines):
    matched = []
    for source_seed, value in values.items():
        if source_seed is None and None not in baselines:
            matched.append((value, np.mean(list(baselines.values()))))
        elif source_seed in baselines:
            matched.append((value, baselines[source_seed]))
        elif None in baselines:
            matched.append((value, baselines[None]))
    return matched


def cells(records):
    """Group records by `Cell`, in the order of first appearance."""
    groups = {}
    for arm, members in arms(records).items():
        for record in members:
            cell = Cell(record["target"], record["labels_per_class"], arm)
            groups.setdefault(cell, []).append(record)
    return groups


def baseline_arm(records, baseline="scratch"):
    """Return the label of the arm that `baseline` names, or None.

    An arm's own label names it; a method's name does where the method has one
    arm at the usual number of steps.

    Raises:
        KTransferError: `E_ARGUMENT` when the method has several such arms.
    """
    labels = arms(records)
    if baseline in labels:
        return baseline
    found = [
        label
        for label, members in labels.items()
        if members[0]["method"] == baseline and "x steps)" not in label
    ]
    if len(found) > 1:
        raise KTransferError(
            "E_ARGUMENT",
            f"the baseline {baseline!r} has {len(found)} arms: "
            f"{', '.join(sorted(found))}; expected one. Name one of them.",
        )
    return found[0] if found else None


def gain_over(records, baseline="scratch"):
    """Return the paired gain of every cell over the baseline's.

    Args:
        records: any number of arms, targets and budgets.
        baseline: a method with one arm, or an arm's label.

    Returns:
        A dict `Cell` -> `Gain`, without the baseline's own cells. A cell that
        shares no unit with the baseline has a gain of nan over 0 units.

    Raises:
        KTransferError: see `baseline_arm` and `pair`.
    """
    groups = cells(records)
    name = baseline_arm(records, baseline)
    gains = {}
    for cell, members in groups.items():
        if cell.arm == name:
            continue
        pairs = pair(members, groups.get(cell._replace(arm=name), []))
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
