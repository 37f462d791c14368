"""What figures, tables and pages say of their records, computed once.

`compared` says what stands beside what, `cautions` what a reader must know
before believing it.
"""

from collections.abc import Iterable
from typing import NamedTuple

from ktransfer.analysis import arms, intervals, outcomes, words
from ktransfer.analysis.arms import Arm
from ktransfer.analysis.record import Record

# Arms that are named one by one.
MOST_NAMES = 6
_NUMBERS = ("no", "one", "two", "three", "four")


class Caution(NamedTuple):
    """One sentence, and what it is about.

    `kind` is one of missing, diverged, stale, carried_over, environments,
    sources and settings.
    """

    kind: str
    text: str


def compared(records: Iterable[Record], times: str = "×") -> str:
    """Return what was compared: sources, target, seeds and source seeds.

    Args:
        records: those shown.
        times: the sign between crossed numbers.
    """
    measured = outcomes.measured(records)
    return f"{data(measured)}; {seeds(measured, times)}"


def data(records: Iterable[Record]) -> str:
    """Return `source A, B; target C` of the measured records."""
    measured = outcomes.measured(records)
    return words.data(
        {"+".join(record["source_origins"]) for record in measured},
        {record["target_origin"] for record in measured},
    )


def seeds(records: Iterable[Record], times: str = "×") -> str:
    """Return `5 to 6 seeds × 2 source seeds`, of the measured records.

    It says where source seeds took turns instead, and which arms are crossed
    where not all are.
    """
    measured = outcomes.measured(records)
    counts = {
        len({record["seed"] for record in members})
        for members in arms.cells(measured).values()
    }
    text = words.span(counts or {0}, "seed")
    sourced = _sourced(measured)
    number = len(_source_seeds(measured))
    crossed = [arm for arm, members in sourced.items() if _is_crossed(members)]
    if not number:
        return text
    sources = words.count(number, "source seed")
    if number == 1 or len(crossed) == len(sourced):
        return f"{text} {times} {sources}"
    text = f"{text}, {sources} in turn"
    if not crossed:
        return text
    return f"{text}, crossed in {_some(crossed, len(sourced))}"


def _sourced(records: Iterable[Record]) -> dict[Arm, list[Record]]:
    """Return the arms that have a source."""
    return {
        arm: members
        for arm, members in arms.arms(records).items()
        if _source_seeds(members)
    }


def _source_seeds(records: Iterable[Record]) -> set[int]:
    found = (record["source_seed"] for record in records)
    return {seed for seed in found if seed is not None}


def _is_crossed(records: Iterable[Record]) -> bool:
    """Tell whether a seed of an arm met several source seeds."""
    met: dict[tuple, set[int]] = {}
    for record in records:
        unit = record["target"], record["labels_per_class"], record["seed"]
        met.setdefault(unit, set()).update(_source_seeds([record]))
    return any(len(found) > 1 for found in met.values())


def _some(chosen: list[Arm], total: int) -> str:
    """Return `2 of 57 arms (a, b)`; many are not named."""
    names = ", ".join(sorted(arm.label for arm in chosen))
    named = f" ({names})" if len(chosen) <= MOST_NAMES else ""
    return f"{len(chosen)} of {total} arms{named}"


def cautions(
    records: Iterable[Record], planned: int | None = None
) -> list[Caution]:
    """Return what must be said of `records`, the gravest first.

    Args:
        records: those shown.
        planned: number of runs planned, None for as many as are recorded.
    """
    records = list(records)
    texts = {
        "missing": _missing(
            records, len(records) if planned is None else planned
        ),
        "diverged": _diverged(records),
        "stale": _stale(records),
        "carried_over": _carried_over(records),
        "environments": _environments(records),
        "sources": _few_sources(records),
        "settings": _settings(records),
    }
    return [Caution(kind, text) for kind, text in texts.items() if text]


def _missing(records: list[Record], planned: int) -> str:
    number = len(outcomes.measured(records))
    status = [record["status"] for record in records]
    wanted = planned - status.count("not_applicable")
    if number >= wanted:
        return ""
    failed = status.count("failed")
    detail = f" ({failed:,} failed)" if failed else ""
    return f"{number:,} of {wanted:,} runs{detail}"


def _diverged(records: list[Record]) -> str:
    number = sum(map(outcomes.diverged, records))
    if not number:
        return ""
    return f"{words.count(number, 'run')} diverged, counted as accuracy 0"


def _stale(records: list[Record]) -> str:
    number = sum(record["stale"] for record in outcomes.measured(records))
    if not number:
        return ""
    return f"{words.count(number, 'stale run')}, of older code or data"


def _carried_over(records: list[Record]) -> str:
    """Say how many records came over a change of code, by how many reruns."""
    found = [
        record["carried_over"]
        for record in outcomes.measured(records)
        if "carried_over" in record
    ]
    if not found:
        return ""
    # A refresh writes the same into all records that it carries over.
    reruns = {(one["commit"], one["of"], one["rerun"]) for one in found}
    rerun = sum(number for _, _, number in reruns)
    number = words.count(len(found), "run")
    return (
        f"{number} carried over a change of code, {rerun:,} rerun with equal "
        "numbers"
    )


def _environments(records: list[Record]) -> str:
    number = len({record["numerics"] for record in outcomes.measured(records)})
    return f"{number} numeric environments mixed" if number > 1 else ""


def _few_sources(records: list[Record]) -> str:
    """Say on how many source networks results rest, if on fewer than five.

    Seeds share them, so an interval over seeds knows nothing of how much
    another source would change.
    """
    numbers = {
        arm: len(_source_seeds(members))
        for arm, members in _sourced(outcomes.measured(records)).items()
    }
    few = [a for a in numbers if not intervals.verdict_allowed(numbers[a])]
    if not few:
        return ""
    least, most = (of(numbers[arm] for arm in few) for of in (min, max))
    span = f"{_NUMBERS[least]} to " * (least < most) + _NUMBERS[most]
    text = f"conditional on {span} source network" + "s" * (most > 1)
    checkpoints = {
        (a.sources[:1], a.backbone, a.recipe, a.source_steps) for a in few
    }
    if len(few) < len(numbers):
        return f"{len(few)} of {len(numbers)} arms {text}"
    return text if len(checkpoints) == 1 else f"each arm {text}"


def _settings(records: list[Record]) -> str:
    """Say what is not the default in all arms, and in no label."""
    shared = arms.shared_settings(outcomes.measured(records))
    if not shared:
        return ""
    texts = [f"{name}={value}" for name, value in shared.items()]
    return f"{', '.join(texts)} throughout"
