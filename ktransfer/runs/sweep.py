"""Carry out many runs, side by side over workers, and say how they went.

A worker takes whole runs, so results do not depend on how many workers there
are. Any `concurrent.futures` executor will do.
"""

import concurrent.futures
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from ktransfer import runs
from ktransfer.analysis.record import Record
from ktransfer.runs import progress, source_files, workers
from ktransfer.runs.carry_out import carry_out, commit
from ktransfer.runs.run import Pretraining, Run

# Seconds after which what is going on is shown again.
TICK = 1.0
# Optimiser steps that a worker takes at once, in runs of one program.
GROUP_STEPS = 1000


def sweep(
    planned: Sequence[Run],
    results: str | Path,
    executor: Executor,
    say: Callable[[str], None] = lambda line: None,
    choice: str = "",
    show: Callable[[str], None] = lambda text: None,
    keep: Callable | None = None,
) -> tuple[int, int]:
    """Carry out the runs of `planned` that have no fresh record.

    Sources come first, each once. A killed sweep goes on where it stopped.

    Args:
        planned: list of `Run`.
        results: folder that holds the experiments' folders.
        executor: a `concurrent.futures` executor whose processes see
            `results` and the data.
        say: called with a line of progress, the plan first.
        choice: sha256 of the choice that the runs rest on, "" if on none.
        show: called each second with what is going on.
        keep: as in `carry_out`, called by the worker; all runs of `planned`
            are then carried out.

    Returns:
        (number of runs carried out, number that failed).

    Raises:
        KTransferError: `E_RESULTS_DIR` if there are runs to carry out and no
            place for their records; `E_MEMORY` if a worker was killed, and
            `E_ARGUMENT` if it began a sweep of its own, see `workers`.
    """
    stale = list(planned)
    if not keep:
        stale = without_record(planned, results, choice)
    bases, later = _sources(stale)
    untrained = [
        source
        for source in (*bases, *later)
        if not source_files.is_there(results, source)
    ]
    jobs = workers.jobs_of(executor)
    if stale:
        runs.check_results_folder(results)
    if planned:
        say(progress.plan(planned, stale, untrained, jobs))
    if not stale:
        return 0, 0
    told = progress.Progress(say, show, stale, untrained, jobs)
    with workers.told_if_broken(executor):
        wanted = {executor.submit(_ensure_source, results, p): p for p in bases}
        for future, facts in _completed(wanted, told):
            told.source(wanted[future], facts)
        with_each = {"choice": choice, "commit": commit()}, keep
        failed = _runs(stale, later, results, executor, with_each, told)
        return len(stale), failed


def without_record(
    planned: Sequence[Run], results: str | Path, choice: str = ""
) -> list[Run]:
    """Return the runs that have no fresh record; see `sweep`."""
    fresh = {
        runs.from_fields(record)
        for record in runs.collect(results, planned, choice)
        if not record["stale"] and record["status"] != "failed"
    }
    return [run for run in planned if run not in fresh]


def _runs(stale, later, results, executor, with_each, told):
    """Carry out all runs, and return how many failed."""
    # Runs that need none of the later sources do not wait for them.
    wanted: dict[Future, Pretraining | None] = {
        executor.submit(_ensure_source, results, p): p for p in later
    }
    groups: dict[Future, list[Run]] = {}
    for group in sorted(_groups(stale), key=_waits):
        future = executor.submit(carry_out_all, results, group, *with_each)
        wanted[future], groups[future] = None, group
    failed = 0
    for future, found in _completed(wanted, told):
        if source := wanted[future]:
            told.source(source, found)
            continue
        records, seconds = found
        told.runs(groups[future], records, seconds)
        failed += sum(record["status"] == "failed" for record in records)
    return failed


def _groups(planned: Iterable[Run]) -> list[list[Run]]:
    """Return lists of runs that a worker takes at once.

    Runs that differ in seeds, labels and rates share a compiled program. Long
    ones gain little by it and would leave a core idle at the end.
    """
    alike: dict[Run, list[Run]] = {}
    for run in planned:
        rates = ("learning_rate", "head_learning_rate", "schedule")
        kept = [(k, v) for k, v in run.hyperparameters if k not in rates]
        key = run._replace(
            seed=0,
            source_seed=0,
            labels_per_class=None,
            hyperparameters=tuple(kept),
        )
        alike.setdefault(key, []).append(run)
    found: list[list[Run]] = []
    for key, members in alike.items():
        size = max(GROUP_STEPS // key.steps, 1)
        found += [members[i : i + size] for i in range(0, len(members), size)]
    return found


def carry_out_all(
    results: str | Path,
    group: Iterable[Run],
    beside: dict[str, str] | None = None,
    keep: Callable | None = None,
) -> tuple[list[Record], float]:
    """Return the records of a group, and the seconds that it took.

    Args:
        results, beside, keep: as in `carry_out`.
        group: runs for one process, in turn.
    """
    start = time.monotonic()
    records = [carry_out(results, run, beside, keep) for run in group]
    return records, time.monotonic() - start


def _completed(
    futures: Mapping[Future, Pretraining | None], told: progress.Progress
) -> Iterator[tuple[Future, Any]]:
    """Give each future with its result as soon as it is there."""
    pending = set(futures)
    while pending:
        told.look(futures)
        done, pending = concurrent.futures.wait(
            pending, TICK, concurrent.futures.FIRST_COMPLETED
        )
        for future in done:
            yield future, future.result()


def _sources(
    stale: Iterable[Run],
) -> tuple[list[Pretraining], list[Pretraining]]:
    """Return the sources that `stale` runs need, each once: bases, the rest."""
    needed = {p: None for run in stale for p in runs.pretrainings(run)}
    followed = [runs.before(p) for p in needed]
    bases = {p: None for p in followed if p is not None}
    bases |= {p: None for p in needed if not p.after}
    return list(bases), [p for p in needed if p.after]


def _waits(group: list[Run]) -> bool:
    """Tell whether runs of one program need a source that goes on from one."""
    return any(p.after for p in runs.pretrainings(group[0]))


def _ensure_source(
    results: str | Path, pretraining: Pretraining
) -> dict[str, Any]:
    from ktransfer.runs import sources

    return sources.load(results, pretraining)[1]
