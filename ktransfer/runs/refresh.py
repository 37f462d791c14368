"""Carry records over a change of code that should move no number.

A sample of the runs is carried out again, at least one an arm and budget. If
every field but the seconds is as it was, the other records take the new
fingerprint and say so; one difference, and nothing is carried over.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple, cast

from ktransfer import files, methods, runs
from ktransfer.analysis.record import Record
from ktransfer.errors import KTransferError
from ktransfer.runs.carry_out import commit
from ktransfer.runs.run import Run
from ktransfer.runs.sweep import sweep

# What says how and by which code a record came about, not what came out. The
# range of labels is that of arrays whose hash is compared; old records lack it.
_ABOUT = (
    *("carried_over", "code", "commit", "defaults", "fingerprint"),
    *("label_range", "seconds", "sha256", "stale"),
)


class Outcome(NamedTuple):
    """What `refresh` did: counts of runs, and (run, field, was, is) a change.

    `stale` were there to be carried over, `rerun` were carried out again,
    `carried` took the new fingerprint without being run.
    """

    stale: int
    rerun: int
    carried: int
    changes: list


def refresh(
    planned: Iterable[Run],
    results: str | Path,
    executor: Executor,
    *,
    share: float,
    choice: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Carry the stale records of `planned` over, unless a number moved.

    Args:
        planned: list of `Run`.
        results: folder of the records.
        executor, say, choice: as in `sweep`.
        share: of each arm's runs at a budget that are carried out again.

    Returns:
        `Outcome`. Runs without a record, failed ones and those that rest on
        another choice are left to the next sweep.
    """
    if not 0 < share <= 1:
        raise KTransferError(
            "E_ARGUMENT", f"the sample is {share!r}; expected 0 to 1, above 0."
        )
    old = {
        runs.from_fields(record): record
        for record in runs.collect(results, planned, choice)
        if record["stale"]
        and record["status"] != "failed"
        and record.get("choice", "") == choice
    }
    chosen = sample(old, share)
    place = _beside(results)
    sweep(chosen, place, executor, say, choice)
    new = {run: cast(Record, runs.find(place, run)) for run in chosen}
    changes = [
        (run, field, old[run].get(field), new[run].get(field))
        for run in chosen
        for field in _differing(old[run], new[run])
    ]
    if not changes:
        for run, record in old.items():
            kept = new.get(run) or _carried(record, run, len(new), len(old))
            runs.write(results, kept)
    shutil.rmtree(place)
    carried = 0 if changes else len(old) - len(new)
    return Outcome(len(old), len(new), carried, changes)


def sample(planned: Iterable[Run], share: float) -> list[Run]:
    """Return the runs to carry out again: `share` of each arm and budget.

    At least one of each; which ones depends on the runs alone.
    """
    groups: dict[Run, list[Run]] = {}
    for run in planned:
        seedless = run._replace(seed=0, source_seed=None)
        groups.setdefault(seedless, []).append(run)
    found: list[Run] = []
    for members in groups.values():
        members.sort(key=_drawn)
        found += members[: math.ceil(share * len(members))]
    return found


def _drawn(run: Run) -> str:
    return files.sha256(runs.canonical(runs.as_fields(run)).encode())


def _beside(results: str | Path) -> Path:
    """Return a results folder for the sample, which shares the sources.

    It stays when a refresh is interrupted, and the next one goes on there.
    """
    results = Path(results)
    place = results / ".refresh"
    runs.check_results_folder(place)
    (results / "sources").mkdir(exist_ok=True)
    if not (place / "sources").exists():
        os.symlink(os.path.join("..", "sources"), place / "sources")
    return place


def _differing(old: Record, new: Record) -> list[str]:
    # What older records may lack has not moved where they do.
    fields = {*old, *(Record.__required_keys__ & {*new})} - {*_ABOUT}
    return sorted(f for f in fields if old.get(f) != new.get(f))


def _carried(record: Record, run: Run, rerun: int, of: int) -> Record:
    return {
        **record,
        "carried_over": {"rerun": rerun, "of": of, "commit": commit()},
        "code": runs.code(run),
        "defaults": methods.describe(run.method).hyperparameters,
        "fingerprint": runs.fingerprint(run),
    }
