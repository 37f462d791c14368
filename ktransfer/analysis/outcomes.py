"""What came out of runs, as numbers: one a record, one a seed, or pairs.

Pure functions of records. A *unit* is one seed of a cell (an arm on one target
at one number of labels per class), averaged over source seeds. Accuracies are
fractions (0 to 1).
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ktransfer.analysis.record import Record
from ktransfer.errors import KTransferError


class Pairs(NamedTuple):
    """Accuracies of an arm and of its baseline on the units both have.

    `units` is a list of (target, labels_per_class, seed); `values` and
    `baselines` have shape (units,) and are averages over source seeds.
    """

    units: list
    values: np.ndarray
    baselines: np.ndarray


def measured(records: Iterable[Record]) -> list[Record]:
    """Return the records of runs that were carried out to a measurement."""
    return [r for r in records if r["status"] in ("ok", "diverged")]


def values(records: Iterable[Record], key: str) -> list:
    """Return what the measured records hold under `key`, without None."""
    found = (dict(record)[key] for record in measured(records))
    return [value for value in found if value is not None]


def accuracy(record: Record) -> float:
    """Return a record's test accuracy as it enters an aggregate.

    A diverged run counts with the worst value there is, 0. A failed or
    inapplicable one has no value: nan.
    """
    value = record["test_accuracy"]
    if record["status"] not in ("ok", "diverged"):
        return math.nan
    return 0.0 if value is None or diverged(record) else float(value)


def accuracy_on(task: str) -> Callable[[Record], float]:
    """Return what reads the accuracy on the test images of another `task`.

    Of a record that was asked for it; a diverged run has 0 there too, and nan
    is what has no value.
    """

    def read(record: Record) -> float:
        if diverged(record):
            return 0.0
        return record.get("also_accuracies", {}).get(task, math.nan)

    return read


def diverged(record: Record) -> bool:
    """Return whether a run left the finite numbers, its metric included."""
    if record["status"] == "diverged":
        return True
    value = record["test_accuracy"]
    return record["status"] == "ok" and (
        value is None or not math.isfinite(value)
    )


def budget(labels_per_class: int | None) -> float:
    """Return a number to sort label budgets by: all labels come last."""
    return math.inf if labels_per_class is None else labels_per_class


def _source_seeds(
    records: Iterable[Record], key: Callable[[Record], float]
) -> dict[tuple, dict[int | None, float]]:
    """Group values: unit -> source seed -> value."""
    units: dict[tuple, dict[int | None, float]] = {}
    for record in records:
        if math.isnan(value := key(record)):
            continue
        unit = record["target"], record["labels_per_class"], record["seed"]
        seeds = units.setdefault(unit, {})
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


def _order(unit: tuple) -> tuple:
    target, labels, seed = unit
    return target, budget(labels), seed


def seed_values(
    records: Iterable[Record], key: Callable[[Record], float] = accuracy
) -> np.ndarray:
    """Return a cell's values, averaged over source seeds: shape (seeds,).

    Args:
        records: of one cell, or of one arm.
        key: a function of a record, nan where it has no value.

    Raises:
        KTransferError: `E_RECORD` when one run was recorded twice.
    """
    units = _source_seeds(records, key)
    values = [
        np.mean(list(units[unit].values()))
        for unit in sorted(units, key=_order)
    ]
    return np.array(values, dtype=float)


def pair(
    records: Iterable[Record], baseline_records: Iterable[Record]
) -> Pairs:
    """Join an arm with its baseline, unit by unit.

    Runs meet on target, labels per class, seed and source seed; a run without
    a source meets every source seed of the other side. The seed is the unit
    of replication, so source seeds are averaged here.

    Returns:
        `Pairs`, sorted by unit; units that one side lacks are not in it.

    Raises:
        KTransferError: `E_RECORD` when one run was recorded twice.
    """
    left = _source_seeds(records, accuracy)
    right = _source_seeds(baseline_records, accuracy)
    shared = sorted(left.keys() & right.keys(), key=_order)
    met = {unit: _match(left[unit], right[unit]) for unit in shared}
    met = {unit: matched for unit, matched in met.items() if matched}
    return Pairs([*met], _means(met, side=0), _means(met, side=1))


def _means(met: dict[tuple, list], side: int) -> np.ndarray:
    """Return the mean of one side of the pairs of each unit."""
    means = [np.mean([x[side] for x in matched]) for matched in met.values()]
    return np.array(means, dtype=float)


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
