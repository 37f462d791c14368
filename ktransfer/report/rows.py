"""Records as rows: one a cell, with its accuracy, gain, counts and badge.

Rows hold fractions. A badge is a claim, so it asks for five seeds, an interval
without 0, Holm's correction over all arms of the table, and a gain no smaller
than the smallest that the seeds can detect with 80 % power.
"""

import math
from collections.abc import Iterable
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from ktransfer.analysis import arms, intervals, outcomes, remarks
from ktransfer.analysis.arms import Selector
from ktransfer.analysis.record import Record

SIGNIFICANCE = 0.05
COLUMNS = (
    "experiment",
    "target",
    "target_origin",
    "labels_per_class",
    "family",
    "method",
    "arm",
    "source",
    "n",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "gain",
    "gain_low",
    "gain_high",
    "p_value",
    "sign_flip",
    "detectable",
    "also_target",
    "also_accuracy",
    "also_low",
    "also_high",
    "badge",
    "seconds",
    "trainable_parameters",
    "total_parameters",
    "ok",
    "diverged",
    "failed",
    "not_applicable",
    "stale",
    "labels",
    "fewest_labels",
    "most_labels",
    "source_seeds",
    "baseline",
    "is_baseline",
    "environments",
    "reason",
)


Row = dict[str, Any]


class Table(NamedTuple):
    """Rows, and what is said of the records behind all of them.

    Fields:
        rows: dicts with the keys `COLUMNS`, by target, labels per class and
            falling accuracy; inapplicable arms come last. Accuracies and
            gains are fractions, nan where there is none; `also_accuracy` is
            that on the test set `also_target`, where the runs name one;
            `labels` is the mean number of labelled images per class, and
            `fewest_labels` and `most_labels` are of one class, nan where only
            older records are there, which do not say; `badge`
            is one of better, worse, negative transfer, undecided, too few
            seeds, control and not applicable.
        data, seeds: what was compared, as `remarks` says it.
        cautions: sentences.
    """

    rows: list[Row]
    data: str
    seeds: str
    cautions: list[str]


_NO_GAIN = intervals.Gain(
    intervals.Interval(math.nan, math.nan, math.nan, 0),
    np.empty(0),
    [],
    math.nan,
    math.nan,
    math.nan,
)


def table(
    records: Iterable[Record],
    baseline: Selector = "scratch",
    mix: bool = False,
    planned: int | None = None,
) -> Table:
    """Return a `Table` of one row a cell: an arm at one number of labels.

    Args:
        records: of any number of targets and budgets.
        baseline: a method with one arm, or fields that select an arm.
        mix: accept records of several numeric environments, and count them.
        planned: number of runs planned; without it the recorded ones count.

    Raises:
        KTransferError: `E_RECORD` for records that should not meet, and what
            `intervals.gain_over` raises.
    """
    records = arms.ordered(records)
    environments = arms.require_comparable(records, mix)
    gains = intervals.gain_over(records, baseline)
    cells = arms.cells(records)
    chosen = arms.baseline_arm(records, baseline)
    name = arms.baseline_name(records, baseline)
    badges = _badges(cells, gains, chosen)
    rows = []
    for cell, members in cells.items():
        row = {
            **_identity(cell, members),
            **_numbers(members, gains.get(cell, _NO_GAIN)),
            **_elsewhere(members),
            **_counts(members),
            "badge": badges[cell],
            "baseline": name,
            "is_baseline": cell.arm == chosen,
            "environments": environments,
        }
        rows.append({key: row[key] for key in COLUMNS})
    return Table(
        sorted(rows, key=_row_order),
        remarks.data(records),
        remarks.seeds(records, "x"),
        [caution.text for caution in remarks.cautions(records, planned)],
    )


def _row_order(row):
    mean = row["accuracy"]
    return (
        row["target"],
        outcomes.budget(row["labels_per_class"]),
        row["badge"] == "not applicable",
        math.inf if math.isnan(mean) else -mean,
        row["arm"],
    )


def _identity(cell, members):
    first = members[0]
    labels = [r["num_labels"] / r["num_classes"] for r in members]
    ranges = [r["label_range"] for r in members if "label_range" in r]
    reasons = dict.fromkeys(r["reason"] for r in members if r["reason"])
    return {
        "experiment": first["experiment"],
        "target": cell.target,
        "target_origin": first["target_origin"],
        "labels_per_class": cell.labels_per_class,
        "family": first["family"],
        "method": first["method"],
        "arm": cell.arm.label,
        "source": "+".join(first["source_origins"]),
        "labels": sum(labels) / len(labels),
        "fewest_labels": min((x for x, _ in ranges), default=math.nan),
        "most_labels": max((x for _, x in ranges), default=math.nan),
        "reason": "; ".join(reasons),
    }


def _numbers(members, gain):
    accuracy = intervals.mean_interval(outcomes.seed_values(members))
    return {
        "n": accuracy.count,
        "accuracy": accuracy.mean,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "gain": gain.interval.mean,
        "gain_low": gain.interval.low,
        "gain_high": gain.interval.high,
        "p_value": gain.p_value,
        "sign_flip": gain.sign_flip,
        "detectable": gain.detectable,
        "seconds": _over_runs(median, members, "seconds"),
        "trainable_parameters": _over_runs(
            max, members, "trainable_parameters"
        ),
        "total_parameters": _over_runs(max, members, "total_parameters"),
    }


def _elsewhere(members):
    """Return the accuracy on the other test set that the runs were asked for.

    A diverged run counts 0 there too.
    """
    name = next(iter(members[0].get("also", ())), "")
    found = outcomes.seed_values(members, outcomes.accuracy_on(name))
    accuracy = intervals.mean_interval(found)
    return {
        "also_target": name,
        "also_accuracy": accuracy.mean,
        "also_low": accuracy.low,
        "also_high": accuracy.high,
    }


def _over_runs(combine, members, key):
    values = outcomes.values(members, key)
    return combine(values) if values else math.nan


def _counts(members):
    status = [record["status"] for record in members]
    num_diverged = sum(map(outcomes.diverged, members))
    return {
        "ok": status.count("ok") + status.count("diverged") - num_diverged,
        "diverged": num_diverged,
        "failed": status.count("failed"),
        "not_applicable": status.count("not_applicable"),
        "stale": sum(record["stale"] for record in members),
        "source_seeds": len({r["source_seed"] for r in members} - {None}),
    }


def _badges(cells, gains, baseline):
    """Return a dict `Cell` -> badge."""
    compared = [
        cell
        for cell, members in cells.items()
        if cell in gains and members[0]["method"] not in arms.CONTROLS
    ]
    adjusted = intervals.holm([gains[cell].p_value for cell in compared])
    badges = {
        cell: _badge(gains[cell], p_value)
        for cell, p_value in zip(compared, adjusted, strict=True)
    }
    over_scratch = baseline is not None and baseline.method == "scratch"
    return {
        cell: _in_words(badges.get(cell, "control"), members, over_scratch)
        for cell, members in cells.items()
    }


def _in_words(badge, members, over_scratch):
    """Return the badge as a table has it.

    Worse than scratch in spite of a source is what the literature calls
    negative transfer (Wang et al. 2019, arXiv:1811.09751).
    """
    if all(r["status"] == "not_applicable" for r in members):
        return "not applicable"
    if badge == "worse" and over_scratch and members[0]["sources"]:
        return "negative transfer"
    return badge


def _badge(gain, adjusted):
    interval = gain.interval
    if not intervals.verdict_allowed(interval.count):
        return "too few seeds"
    if adjusted > SIGNIFICANCE or abs(interval.mean) < gain.detectable:
        return "undecided"
    if intervals.negative_transfer(interval):
        return "worse"
    return "better" if interval.low > 0.0 else "undecided"
