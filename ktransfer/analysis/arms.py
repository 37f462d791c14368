"""Records in groups: arms, cells, and an arm paired with its baseline.

Pure functions of records, the dicts that `runs` reads. An *arm* is one method
at one setting; a *cell* is one arm on one target at one number of labels per
class; a *unit* is one seed of a cell, averaged over source seeds. Accuracies
are fractions (0 to 1).
"""

import json
import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from ktransfer.errors import KTransferError

CONTROLS = ("scratch", "random_features", "majority")


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


def measured(records):
    """Return the records of runs that were carried out to a measurement."""
    return [r for r in records if r["status"] in ("ok", "diverged")]


def values(records, key):
    """Return what the measured records hold under `key`, without None."""
    found = (record[key] for record in measured(records))
    return [value for value in found if value is not None]


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
    value = record["test_accuracy"]
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
    origins = {}
    for record in measured(records):
        names = origins.setdefault(record["target"], set())
        names.add(record["target_origin"])
    for target, names in origins.items():
        if len(names) > 1:
            raise KTransferError(
                "E_RECORD",
                f"target {target!r} has records of different data: "
                f"{', '.join(sorted(names))}; expected one origin. "
                "Rerun the experiment on one of them.",
            )
    environments = {record["numerics"] for record in measured(records)}
    if len(environments) > 1 and not mix:
        raise KTransferError(
            "E_RECORD",
            f"records of {len(environments)} numeric environments "
            f"({', '.join(sorted(environments))}); expected one. "
            "Rerun the older records, or mix them knowingly with mix=True.",
        )
    return len(environments)


def ordered(records):
    """Return the records in one order, whatever the order they came in."""
    return sorted(records, key=_record_order)


def budget(labels_per_class):
    """Return a number to sort label budgets by: all labels come last."""
    return math.inf if labels_per_class is None else labels_per_class


def _record_order(record):
    source_seed = record["source_seed"]
    return (
        record["target"],
        budget(record["labels_per_class"]),
        record["method"],
        json.dumps(_settings(record), sort_keys=True),
        record["steps"],
        record["seed"],
        -1 if source_seed is None else source_seed,
    )


def arms(records):
    """Group records by arm, the method at one setting.

    Returns:
        A dict from label to records, in the order of first appearance. The
        label is the method's name; where its records differ in sources, in
        how these were made, or in hyper-parameters, these follow in brackets,
        and so does a number of steps that is not the usual one of its target
        and label budget.
    """
    varying = _varying_settings(records)
    usual = _usual_steps(records)
    groups = {}
    for record in records:
        label = _arm_label(record, varying[record["method"]], usual)
        groups.setdefault(label, []).append(record)
    return groups


def _settings(record):
    """Return what tells the arms of one method apart, name -> text."""
    settings = {"from": f"from {'+'.join(record['sources']) or 'none'}"}
    if record["sources"]:
        # Spelt in the order in which a label shows them.
        settings["from backbone"] = record.get("backbone", "")
        settings["from recipe"] = record.get("recipe", "pretrain")
        settings["from steps"] = f"{record.get('source_steps')} source steps"
    for name, value in record["hyperparameters"].items():
        text = value if isinstance(value, str) else json.dumps(value)
        settings[name] = f"{name}={text}"
    return settings


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
    """Return a dict (target, labels) -> the steps that most methods take."""
    methods = {
        (r["target"], r["labels_per_class"], r["method"], r["steps"])
        for r in records
        if r["status"] != "not_applicable"
    }
    counts = {}
    for target, labels, _, steps in methods:
        counts.setdefault((target, labels), Counter())[steps] += 1
    return {
        place: min(count, key=lambda steps: (-count[steps], steps))
        for place, count in counts.items()
    }


def _arm_label(record, varying, usual):
    method, steps = record["method"], record["steps"]
    settings = _settings(record)
    parts = [settings[name] for name in varying if name in settings]
    place = record["target"], record["labels_per_class"]
    if steps != usual.get(place, steps):
        parts.append(f"{steps / usual[place]:.3g}x steps")
    return f"{method} ({', '.join(parts)})" if parts else method


def _source_seeds(records):
    """Group accuracies: unit -> source seed -> accuracy."""
    units = {}
    for record in records:
        if math.isnan(value := accuracy(record)):
            continue
        key = record["target"], record["labels_per_class"], record["seed"]
        seeds = units.setdefault(key, {})
        source_seed = record["source_seed"]
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
    return target, budget(labels), seed


def seed_accuracies(records):
    """Return a cell's accuracies, averaged over source seeds: shape (seeds,).

    Raises:
        KTransferError: `E_RECORD` when one run was recorded twice.
    """
    units = _source_seeds(records)
    values = [
        np.mean(list(units[unit].values()))
        for unit in sorted(units, key=_order)
    ]
    return np.array(values, dtype=float)


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
