"""Carry out one run: transfer, measure, and keep its record."""

import functools
import math
import os
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from ktransfer import data, files, fingerprints, methods, runs
from ktransfer.analysis.record import Record
from ktransfer.errors import (
    Diverged,
    KTransferError,
    NotApplicable,
    place_of,
)
from ktransfer.runs import planning
from ktransfer.runs.run import Pretraining, Run

# What a `Record` holds of a run that did not end well.
_UNMEASURED: dict[str, Any] = {
    "curve": [],
    "frozen_layers": [],
    "moved": {},
    "per_class_accuracy": [],
    "reason": "",
    "seconds": None,
    "source_test_accuracies": [],
    "statistics": "",
    "steps_done": 0,
    "test_accuracy": None,
    "test_loss": None,
    "total_parameters": None,
    "trainable_parameters": None,
    "trained_layers": [],
}


def carry_out(
    results: str | Path,
    run: Run,
    beside: dict[str, str] | None = None,
    keep: Callable[[Any, data.Task, Record], None] | None = None,
) -> Record:
    """Carry out `run` unless its record is fresh, write and return the record.

    A method that does not apply, diverges or fails gives a record too. Full
    disks and memory do not: they end the sweep.

    Args:
        results: folder of records and sources.
        run: the `Run`.
        beside: what its record says besides, outside of the fingerprint:
            `choice` and `commit`.
        keep: given the model, its task and the record once that is written,
            if all went well. The run is then carried out in any case, since a
            record holds no model.
    """
    beside = {"choice": "", "commit": "", **(beside or {})}
    made: list[tuple] = []
    with runs.run_lock(results, run):
        record = runs.find(results, run)
        if keep or not runs.is_fresh(record, run, beside["choice"]):
            hold = (lambda *pair: made.append(pair)) if keep else None
            found = {**_record(results, run, hold), **beside}
            record = cast(Record, found)
            runs.write(results, record)
    record = cast(Record, record)
    if keep and record["status"] == "ok":
        ((model, task),) = made
        keep(model, task, record)
    return record


def _record(
    results: str | Path, run: Run, hold: Callable | None
) -> dict[str, Any]:
    loaded = [_source(results, p) for p in runs.pretrainings(run)]
    record = _asked(results, run, [facts for _, facts in loaded])
    try:
        sources = [source for source, _ in loaded]
        record |= measured(run, [*sources, *_own_sources(run)], hold)
    except MemoryError as error:
        raise KTransferError(
            "E_MEMORY", f"out of memory in {run.method}; use fewer JOBS."
        ) from error
    if not planning.reads_weights(run):
        # It did not start there.
        record["moved"] = {}
    if record["status"] in ("diverged", "failed"):
        # Whatever it did to them, the next run starts from the files.
        _source.cache_clear()
    return record


def _asked(results, run, source_facts):
    """Return what a record says before anything is measured."""
    from ktransfer.engine import backend

    about = methods.describe(run.method)
    return {
        **runs.as_fields(run),
        **_UNMEASURED,
        "code": runs.code(run),
        "defaults": about.hyperparameters,
        "family": about.family,
        "fingerprint": runs.fingerprint(run),
        "numerics": _numerics(results, run, backend.facts()),
        "source_test_accuracies": [f["test_accuracy"] for f in source_facts],
    }


def measured(
    run: Run, sources: list, hold: Callable | None = None
) -> dict[str, Any]:
    """Transfer and measure: return what a record holds of it, and `status`.

    Whatever a number depends on is called from here, or named in `runs.code`.

    Args:
        run: the `Run`.
        sources: its `Source`s.
        hold: given the model and its task, for who wants more than numbers.
    """
    from ktransfer.engine import backend

    task = data.load(run.target, run.labels_per_class, run.seed)
    counts = np.bincount(task.train.y, minlength=task.num_classes)
    found = {
        "label_range": [int(counts.min()), int(counts.max())],
        "num_classes": task.num_classes,
        "num_labels": len(task.train.y),
        "num_test_images": None,
        "source_origins": [source.task.origin for source in sources],
        "target_origin": task.origin,
        "target_sha256": task.sha256,
    }
    if all(isinstance(label, str) for label in task.labels):
        found["labels"] = list(task.labels)
    try:
        return found | _measure(run, task, sources, hold)
    except NotApplicable as error:
        return found | {"status": "not_applicable", "reason": error.message}
    except Diverged as error:
        return found | {"status": "diverged", "reason": str(error)}
    except MemoryError:
        raise
    except Exception as error:
        if os.environ.get("KT_DEBUG") == "1":
            traceback.print_exc()
        return found | {"status": "failed", "reason": _one_line(error, run)}
    finally:
        backend.clear_session()


@functools.lru_cache(maxsize=4)
def _source(results: str | Path, pretraining: Pretraining) -> tuple:
    """Return a source, and its facts, read once a worker: no run changes it."""
    from ktransfer.runs import sources

    return sources.load(results, pretraining)


def _own_sources(run):
    """Return the user's models as `Source`s, in the size of the target."""
    if not run.source_models:
        return []
    size = data.load(run.target).image_shape[:2]
    return [_own_source(text, size, run.seed) for text in run.source_models]


@functools.lru_cache(maxsize=4)
def _own_source(text, image_size, seed):
    from ktransfer.models import own

    return own.load_source(text, image_size=image_size, seed=seed)


def _one_line(error: Exception, run: Run) -> str:
    """Return what went wrong and where: in the user's file if it is his."""
    file = methods.path(run.method)
    package = Path(fingerprints.__file__).parent
    own = not file.is_relative_to(package)
    place = place_of(error, file.parents[1] if own else package)
    text = " ".join(str(error).split())
    if not isinstance(error, KTransferError):
        text = f"{type(error).__name__}: {text}"
    return text[:300] + (f" ({place})" if place else "")


def _measure(run, task, sources, hold):
    from ktransfer.engine import training
    from ktransfer.models import graph

    held = None
    if run.evaluation == "validation":
        train, held = data.validation_split(task.train, seed=run.seed)
        task = task._replace(train=train)
    before = [_state_hash(source.model) for source in sources]
    transfer = methods.load(run.method)
    start = time.process_time()
    with data.sealed(), training.recording() as fits:
        model = transfer(
            task,
            *sources,
            steps=run.steps,
            seed=run.seed,
            **dict(run.hyperparameters),
        )
    seconds = time.process_time() - start
    if before != [_state_hash(source.model) for source in sources]:
        raise KTransferError(
            "E_INVARIANT", f"{run.method} changed a source or froze it"
        )
    if hold is not None:
        hold(model, task)
    weighted = [x for x in graph.leaves(model) if x.weights]
    return {
        **EVALUATIONS[run.evaluation](run, model, task, held, sources),
        **_beside(run, task, sources, model),
        "curve": _curve(fits),
        "frozen_layers": sorted(x.name for x in weighted if not x.trainable),
        "moved": _moved(model, sources),
        "seconds": round(seconds, 2),
        "statistics": next((f.statistics for f in fits if f.statistics), ""),
        "steps_done": sum(fit.steps for fit in fits),
        "total_parameters": model.count_params(),
        "trainable_parameters": max(
            (fit.trainable_parameters for fit in fits), default=0
        ),
        "trained_layers": sorted(x.name for x in weighted if x.trainable),
    }


def _moved(model, sources):
    """Return how far each block went from the first source's, by name."""
    from ktransfer.measures import similarity

    try:
        found = similarity.weight_distance(model, sources[0].model)
    except (IndexError, KTransferError):
        # No source, or no block in common.
        return {}
    finite = {n: x for n, x in found.items() if math.isfinite(x)}
    return {name: round(distance, 6) for name, distance in finite.items()}


def _on_test_split(run, model, task, held, sources):
    from ktransfer.measures import evaluation

    return evaluation.evaluate(model, run.target)


def _on_held_out(run, model, task, held, sources):
    from ktransfer.measures import evaluation

    return {"status": "ok", **evaluation.held_out(model, held)}


def _by_information(run, model, task, held, sources):
    from ktransfer.measures import evaluation
    from ktransfer.stages import domains

    domains.require_same_classes(task, sources[0])
    images = domains.without_labels(task)
    value = evaluation.information(model, images, sources[0].task.train)
    return {"status": "ok", "information": value}


# The test split stays closed to a trial that tunes. A run's hash follows its
# own, so the table is literal.
EVALUATIONS = {
    "information": _by_information,
    "test": _on_test_split,
    "validation": _on_held_out,
}


def _beside(run, task, sources, model):
    """Return what a run was asked to measure besides, mostly nothing."""
    from ktransfer.measures import evaluation

    found = {}
    if run.also:
        found["also_accuracies"] = {
            name: evaluation.accuracy(model, data.test_split(name))
            for name in run.also
        }
    if run.scores:
        found["score_values"] = evaluation.scores(run.scores, task, sources[0])
    return found


def _curve(fits):
    points, done = [], 0
    for fit in fits:
        points += [[done + step, round(loss, 6)] for step, loss in fit.curve]
        done += fit.steps
    return points


def _state_hash(model):
    """Return the sha256 of all values of a model, and of what is frozen."""
    arrays = [variable.numpy() for variable in model.variables]
    flags = bytes(variable.trainable for variable in model.variables)
    return files.sha256(flags, *(a if a.ndim else a.reshape(1) for a in arrays))


def _numerics(results, run, facts):
    """Return the short hash of `facts`, kept in full beside the records."""
    facts = {
        **facts,
        "switches": fingerprints.switches(),
    }
    name = files.sha256(runs.canonical(facts).encode())[:12]
    place = Path(results) / run.experiment / "environments" / f"{name}.json"
    if not place.exists():
        files.write(place, f"{runs.canonical(facts)}\n".encode())
    return name


@functools.cache
def commit() -> str:
    """Return the commit of the package's code, "" outside a checkout of it.

    A code that was changed since ends with "-dirty".
    """
    try:
        _git("ls-files", "--error-unmatch", ".")
        return _git("describe", "--always", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    """Return what git says of the folder of this file."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()
