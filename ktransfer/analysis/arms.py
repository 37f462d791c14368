"""Records in groups: arms, cells, and an arm paired with its baseline.

Pure functions of records. An *arm* is one method at one setting; a *cell* is
one arm on one target at one number of labels per class; a *unit* is one seed
of a cell, averaged over source seeds. Accuracies are fractions (0 to 1).
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ktransfer.analysis.record import Record
from ktransfer.errors import KTransferError

CONTROLS = ("scratch", "random_features", "majority")
# Settings of every training, which mean the same in all methods.
TRAINING = ("batch_size", "learning_rate", "optimizer", "precision", "schedule")
# Fields of records and their values, or the name of a method alone.
Selector = str | Mapping[str, Any]


class Arm(NamedTuple):
    """One method at one setting.

    Fields:
        method, family: as in its records.
        sources, backbone, recipe, source_steps: how its sources were made;
            (), "", "" and None without one.
        hyperparameters: pairs (name, value) of those given, by name; a list
            is a tuple.
        steps_factor: its steps over the usual number at its target and label
            budget, to three digits.
        setting: what a label says besides the method, "" if nothing.
    """

    method: str
    family: str
    sources: tuple[str, ...]
    backbone: str
    recipe: str
    source_steps: int | None
    hyperparameters: tuple[tuple[str, Any], ...]
    steps_factor: float
    setting: str = ""

    @property
    def label(self) -> str:
        """What figures and tables call it: `l2_sp (strength=0.1)`."""
        if not self.setting:
            return self.method
        return f"{self.method} ({self.setting})"


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
    arm: Arm


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


def require_comparable(records: Iterable[Record], mix: bool = False) -> int:
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
    kept = measured(records)
    origins: dict[str, set[str]] = {}
    for record in kept:
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
    environments = {record["numerics"] for record in kept}
    if len(environments) > 1 and not mix:
        raise KTransferError(
            "E_RECORD",
            f"records of {len(environments)} numeric environments "
            f"({', '.join(sorted(environments))}); expected one. "
            "Rerun the older records, or mix them knowingly with mix=True.",
        )
    return len(environments)


def ordered(records: Iterable[Record]) -> list[Record]:
    """Return the records in one order, whatever the order they came in."""
    return sorted(records, key=_record_order)


def budget(labels_per_class: int | None) -> float:
    """Return a number to sort label budgets by: all labels come last."""
    return math.inf if labels_per_class is None else labels_per_class


def _record_order(record: Record) -> tuple:
    source_seed = record["source_seed"]
    return (
        record["target"],
        budget(record["labels_per_class"]),
        record["method"],
        list(_settings(_arm(record, {}, ())).values()),
        record["steps"],
        record["seed"],
        -1 if source_seed is None else source_seed,
    )


def arms(
    records: Iterable[Record], ignoring: Collection[str] = ()
) -> dict[Arm, list[Record]]:
    """Group records by arm, the method at one setting.

    Args:
        records: those of one table or figure.
        ignoring: what does not tell arms apart: `steps`, or the name of a
            hyper-parameter.

    Returns:
        A dict from `Arm` to records, in the order of first appearance. Its
        setting names what the arms of its method differ in, and what was
        given another value than the method's default, but for the
        `shared_settings`; then a number of steps that is not the usual one.
    """
    records = list(records)
    usual = {} if "steps" in ignoring else _usual_steps(records)
    groups: dict[Arm, list[Record]] = {}
    for record in records:
        groups.setdefault(_arm(record, usual, ignoring), []).append(record)
    varying = _varying(groups)
    shared = shared_settings(records)
    return {
        _with_setting(
            arm, varying[arm.method] | _not_default(members) - shared.keys()
        ): members
        for arm, members in groups.items()
    }


def shared_settings(records: Iterable[Record]) -> dict[str, Any]:
    """Return the `TRAINING` settings that are one in all, and not by default.

    name -> value: those of two methods or more, with this value in every
    record. No label shows them; `remarks` says them once.
    """
    values: dict[str, set] = {}
    owners: dict[str, set[str]] = {}
    changed: set[str] = set()
    for record in records:
        settings = {**record.get("defaults", {}), **record["hyperparameters"]}
        changed |= _not_default([record]) & {*TRAINING}
        for name, value in settings.items():
            values.setdefault(name, set()).add(_frozen(value))
            owners.setdefault(name, set()).add(record["method"])
    return {
        name: next(iter(values[name]))
        for name in sorted(changed)
        if len(values[name]) == 1 and len(owners[name]) > 1
    }


def _not_default(records: Iterable[Record]) -> set[str]:
    """Return the hyper-parameters that were given another value.

    Records of a code that did not write defaults have none.
    """
    return {
        name
        for record in records
        for name, value in record["hyperparameters"].items()
        if name in (defaults := record.get("defaults", {}))
        and _frozen(value) != _frozen(defaults[name])
    }


def _frozen(value: Any) -> Any:
    """Return a value that came from JSON as one that a set can hold."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _arm(
    record: Record, usual: Mapping[tuple, int], ignoring: Collection[str]
) -> Arm:
    """Return the arm of a record, its setting still to be found."""
    sourced = bool(record["sources"])
    place = record["target"], record["labels_per_class"]
    factor = record["steps"] / usual.get(place, record["steps"])
    return Arm(
        record["method"],
        record["family"],
        tuple(record["sources"]),
        record["backbone"] if sourced else "",
        record.get("recipe", "pretrain") if sourced else "",
        record["source_steps"] if sourced else None,
        tuple(
            (name, _frozen(value))
            for name, value in sorted(record["hyperparameters"].items())
            if name not in ignoring
        ),
        float(f"{factor:.3g}"),
    )


def _settings(arm: Arm) -> dict[str, str]:
    """Return what tells the arms of one method apart, name -> text."""
    settings = {"from": f"from {'+'.join(arm.sources) or 'none'}"}
    if arm.sources:
        # Names that no hyper-parameter can have.
        settings["from backbone"] = arm.backbone
        settings["from recipe"] = arm.recipe
        settings["from steps"] = f"{arm.source_steps} source steps"
    for name, value in arm.hyperparameters:
        text = value if isinstance(value, str) else json.dumps(value)
        settings[name] = f"{name}={text}"
    return settings


def _varying(arms: Iterable[Arm]) -> dict[str, set[str]]:
    """Return method -> names of the settings in which its arms differ."""
    seen: dict[str, list[dict[str, str]]] = {}
    for arm in arms:
        seen.setdefault(arm.method, []).append(_settings(arm))
    return {
        method: {
            name
            for name in set().union(*settings)
            if len({setting.get(name) for setting in settings}) > 1
        }
        for method, settings in seen.items()
    }


def _with_setting(arm: Arm, shown: Collection[str]) -> Arm:
    """Return the arm with the settings that are `shown` as its text."""
    texts = [text for name, text in _settings(arm).items() if name in shown]
    if arm.steps_factor != 1:
        texts.append(f"{arm.steps_factor:.3g}x steps")
    return arm._replace(setting=", ".join(texts))


def _usual_steps(records: Iterable[Record]) -> dict[tuple, int]:
    """Return a dict (target, labels) -> the steps that most methods take."""
    methods = {
        (r["target"], r["labels_per_class"], r["method"], r["steps"])
        for r in records
        if r["status"] != "not_applicable"
    }
    counts: dict[tuple, Counter] = {}
    for target, labels, _, steps in methods:
        counts.setdefault((target, labels), Counter())[steps] += 1
    return {
        place: min(count, key=lambda steps: (-count[steps], steps))
        for place, count in counts.items()
    }


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


def cells(records: Iterable[Record]) -> dict[Cell, list[Record]]:
    """Group records by `Cell`, in the order of first appearance."""
    groups: dict[Cell, list[Record]] = {}
    for arm, members in arms(records).items():
        for record in members:
            cell = Cell(record["target"], record["labels_per_class"], arm)
            groups.setdefault(cell, []).append(record)
    return groups


def matches(record: Record, selector: Selector) -> bool:
    """Tell whether the fields of `record` are those of `selector`.

    Hyper-parameters are a dictionary in it, which asks for its own entries
    alone; one that a run was not given has its default.
    """
    if isinstance(selector, str):
        return record["method"] == selector
    fields = dict(record)
    asked = {**selector}
    settings = {**record.get("defaults", {}), **record["hyperparameters"]}
    for name, value in asked.pop("hyperparameters", {}).items():
        if name not in settings or settings[name] != value:
            return False
    return all(
        name in fields and fields[name] == value
        for name, value in asked.items()
    )


def baseline_arm(
    records: Iterable[Record], baseline: Selector = "scratch"
) -> Arm | None:
    """Return the arm that `baseline` selects, or None.

    Unless it says a number of steps, it means an arm of the usual one.

    Raises:
        KTransferError: `E_ARGUMENT` when it selects several.
    """
    any_steps = not isinstance(baseline, str) and "steps" in baseline
    found = [
        arm
        for arm, members in arms(records).items()
        if any(matches(record, baseline) for record in members)
        and (any_steps or arm.steps_factor == 1)
    ]
    if len(found) > 1:
        raise KTransferError(
            "E_ARGUMENT",
            f"the baseline {baseline!r} has {len(found)} arms: "
            f"{', '.join(sorted(arm.label for arm in found))}; expected one. "
            "Select it by more of its fields.",
        )
    return found[0] if found else None


def baseline_name(records: Iterable[Record], baseline: Selector) -> str:
    """Return the label of the baseline's arm, or what was asked for."""
    arm = baseline_arm(records, baseline)
    if arm is not None:
        return arm.label
    return baseline if isinstance(baseline, str) else baseline.get("method", "")
