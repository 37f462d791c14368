"""Carry out many runs, side by side over workers, and say how they went.

A worker takes whole runs, so results do not depend on how many workers there
are. Any `concurrent.futures` executor will do.
"""

import concurrent.futures
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, cast

from ktransfer import runs
from ktransfer.analysis.record import Record
from ktransfer.errors import KTransferError
from ktransfer.runs.carry_out import carry_out, commit
from ktransfer.runs.run import Pretraining, Run

# Optimiser steps that a worker takes at once, in runs of one program.
GROUP_STEPS = 1000


def sweep(
    planned: Sequence[Run],
    results: str | Path,
    executor: Executor,
    say: Callable[[str], None] = lambda line: None,
    choice: str = "",
) -> tuple[int, int]:
    """Carry out the runs of `planned` that have no fresh record.

    Sources come first, each once. A killed sweep goes on where it stopped.

    Args:
        planned: list of `Run`.
        results: folder that holds the experiments' folders.
        executor: a `concurrent.futures` executor whose processes see
            `results` and the data.
        say: called with a line of progress.
        choice: sha256 of the choice that the runs rest on, "" if on none.

    Returns:
        (number of runs carried out, number that failed).
    """
    fresh = {
        runs.from_fields(record)
        for record in runs.collect(results, planned, choice)
        if not record["stale"] and record["status"] != "failed"
    }
    stale = [run for run in planned if run not in fresh]
    if stale:
        runs.check_results_folder(results)
    bases, later = _sources(stale)
    futures: dict[Future, Pretraining | None] = {
        executor.submit(_ensure_source, results, p): p for p in bases
    }
    for future, result in _completed(futures):
        say(_source_line(cast(Pretraining, futures[future]), result))
    # Runs that need none of the later sources do not wait for them.
    futures = {executor.submit(_ensure_source, results, p): p for p in later}
    beside = {"choice": choice, "commit": commit()}
    for group in sorted(_groups(stale), key=_waits):
        futures[executor.submit(_carry_out_all, results, group, beside)] = None
    done = failed = 0
    for future, result in _completed(futures):
        if pretraining := futures[future]:
            say(_source_line(pretraining, result))
            continue
        for record in result:
            done += 1
            failed += record["status"] == "failed"
            say(_run_line(done, len(stale), record))
    return len(stale), failed


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


def _carry_out_all(
    results: str | Path, group: Iterable[Run], beside: dict[str, str]
) -> list[Record]:
    return [carry_out(results, run, beside) for run in group]


def _completed(futures: Iterable[Future]) -> Iterator[tuple[Future, Any]]:
    """Give each future with its result as soon as it is there."""
    try:
        for future in concurrent.futures.as_completed(futures):
            yield future, future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise KTransferError(
            "E_MEMORY",
            "a worker process was killed, most likely for memory; run again "
            "with fewer JOBS. What is finished is kept.",
        ) from error


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


def _source_line(pretraining: Pretraining, facts: dict[str, Any]) -> str:
    after = f" after {pretraining.after}" if pretraining.after else ""
    return (
        f"source {pretraining.task}{after}, seed {pretraining.seed}: "
        f"{facts['test_accuracy']:.1%} on its own test images "
        f"({pretraining.steps:,} steps, {facts['seconds']:.0f} s)"
    )


def _run_line(done: int, total: int, record: Record) -> str:
    labels = record["labels_per_class"]
    if record["status"] == "ok":
        outcome = f"{_result(record)}  {record['seconds']:6.1f} s"
    else:
        outcome = f"{record['status'].replace('_', ' ')}: {record['reason']}"
    budget = "all labels" if labels is None else f"{labels} a class"
    return (
        f"[{done:>{len(str(total))}}/{total}] {record['method']:<28} "
        f"{budget:<12} seed {record['seed']}  {outcome}"
    )


def _result(record: Record) -> str:
    if "information" in record:
        return f"{record['information']:.2f} nats"
    if "validation_accuracy" in record:
        return f"{record['validation_accuracy']:6.1%} held out"
    return f"{record['test_accuracy']:6.1%}"


def print_line(line: str) -> None:
    """Print a line of progress at once, also through a pipe."""
    print(line, file=sys.stderr, flush=True)
