"""How long each method takes with a user's model, or why it does not apply."""

import concurrent.futures
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ktransfer import methods
from ktransfer.analysis.record import Record
from ktransfer.runs import recommend, sweep, workers
from ktransfer.runs.recommend import Candidate, Plan

# Of one program: the first is traced, and the others differ by their steps.
_STEPS = (2, 4, 24)


class Pace(NamedTuple):
    """What is known of a method: `seconds` of 100 steps, or why not."""

    method: str
    seconds: float | None
    reason: str


def paces(
    models: list[str],
    target: str,
    jobs: int,
    say: Callable[[str], None] = lambda line: None,
) -> list[Pace]:
    """Return the `Pace` of every method, in the order of `methods.names`.

    Each runs for a few steps of 16 images; nothing of it is kept.

    Args:
        models: texts as of `--source-model`.
        target: name of the data set.
        jobs: worker processes.
        say: called with a line of progress.
    """
    plan = recommend.plan("inspect", target, models)
    found = {name: Pace(name, None, why) for name, why in plan.left_out.items()}
    candidates = [*plan.controls, *plan.candidates]
    executor = workers.local_executor(jobs)
    try:
        with tempfile.TemporaryDirectory() as place:
            for pace in _measured(executor, Path(place), plan, candidates):
                found[pace.method] = pace
                say(f"{len(found)} of {len(methods.names())}: {pace.method}")
    finally:
        workers.stop(executor)
    return [found[name] for name in methods.names()]


def _measured(
    executor, place: Path, plan: Plan, candidates: list[Candidate]
) -> Iterator[Pace]:
    futures = {}
    for candidate in candidates:
        planned = [
            recommend.run_of(plan, candidate, steps, 0, "validation")
            for steps in _STEPS
        ]
        future = executor.submit(sweep.carry_out_all, place, planned, {})
        futures[future] = candidate
    for future in concurrent.futures.as_completed(futures):
        records, _ = future.result()
        yield _pace(futures[future].method, records)


def _pace(method: str, records: list[Record]) -> Pace:
    if bad := next((r for r in records if r["status"] != "ok"), None):
        return Pace(method, None, bad["reason"] or bad["status"])
    first, few, many = (record["seconds"] or 0.0 for record in records)
    step = max(many - few, 0.0) / (_STEPS[2] - _STEPS[1])
    return Pace(method, first + step * (100 - _STEPS[0]), "")
