"""Records in groups: arms and cells, and the arm that is the baseline.

Pure functions of records. An *arm* is one method at one setting; a *cell* is
one arm on one target at one number of labels per class.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ktransfer.analysis.outcomes import budget, measured
from ktransfer.analysis.record import Record
from ktransfer.errors import KTransferError

CONTROLS = ("scratch", "random_features", "majority")
# Settings of every training, which mean the same in all methods.
TRAINING = (
    *("batch_size", "learning_rate", "optimizer", "precision", "schedule"),
    "statistics",
)
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


class Cell(NamedTuple):
    """The key of a cell; `labels_per_class` is None for all labels."""

    target: str
    labels_per_class: int | None
    arm: Arm


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
        ignoring: what does not tell arms apart: `steps`, or a hyper-parameter.

    Returns:
        A dict from `Arm` to records, in the order of first appearance. Its
        setting names what the arms of its method differ in, and what was
        given another value than the method's default, but for the
        `shared_settings`; then a number of steps that is not the usual one.
    """
    records = list(records)
    groups = _by_arm(records, ignoring)
    varying = _varying(groups)
    shared = shared_settings(records).keys()
    named = {}
    for arm, members in groups.items():
        shown = varying[arm.method] | _not_default(members) - shared
        named[_with_setting(arm, shown)] = members
    return named


def _by_arm(
    records: Collection[Record], ignoring: Collection[str]
) -> dict[Arm, list[Record]]:
    """Group records by arm, the settings still to be found."""
    usual = {} if "steps" in ignoring else _usual_steps(records)
    groups: dict[Arm, list[Record]] = {}
    for record in records:
        groups.setdefault(_arm(record, usual, ignoring), []).append(record)
    return groups


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
    sources = (*record["sources"], *record.get("source_models", ()))
    sourced = bool(record["sources"])
    place = record["target"], record["labels_per_class"]
    factor = record["steps"] / usual.get(place, record["steps"])
    return Arm(
        record["method"],
        record["family"],
        sources,
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
    if arm.source_steps is not None:
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
    found = [
        arm
        for arm, members in arms(records).items()
        if _is_meant(arm, members, baseline)
    ]
    if len(found) > 1:
        raise KTransferError(
            "E_ARGUMENT",
            f"the baseline {baseline!r} has {len(found)} arms: "
            f"{', '.join(sorted(arm.label for arm in found))}; expected one. "
            "Select it by more of its fields.",
        )
    return found[0] if found else None


def _is_meant(arm: Arm, members: Iterable[Record], baseline: Selector) -> bool:
    """Tell whether `baseline` selects an arm that has these records."""
    any_steps = not isinstance(baseline, str) and "steps" in baseline
    selected = any(matches(record, baseline) for record in members)
    return selected and (any_steps or arm.steps_factor == 1)


def baseline_name(records: Iterable[Record], baseline: Selector) -> str:
    """Return the label of the baseline's arm, or what was asked for."""
    arm = baseline_arm(records, baseline)
    if arm is not None:
        return arm.label
    return baseline if isinstance(baseline, str) else baseline.get("method", "")
