"""Carry out runs: one after the other in a worker, side by side over workers.

A worker has one thread and takes whole runs, so results do not depend on how
many workers there are. `sweep` takes any `concurrent.futures` executor.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from ktransfer import data, files, fingerprints, methods, runs
from ktransfer.analysis.record import Record
from ktransfer.errors import Diverged, KTransferError, NotApplicable

# What a `Record` holds of a run that did not end well.
_UNMEASURED: dict[str, Any] = {
    "curve": [],
    "frozen_layers": [],
    "per_class_accuracy": [],
    "reason": "",
    "seconds": None,
    "source_test_accuracies": [],
    "steps_done": 0,
    "test_accuracy": None,
    "test_loss": None,
    "total_parameters": None,
    "trainable_parameters": None,
    "trained_layers": [],
}
# Optimiser steps that a worker takes at once, in runs of one program.
GROUP_STEPS = 1000
# NumPy's own threads, whose number moves bits as TensorFlow's does.
_NUMPY_THREADS = (
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def local_executor(jobs):
    """Return an executor of `jobs` processes with one thread each."""
    # Read when a new process imports NumPy.
    os.environ.update(dict.fromkeys(_NUMPY_THREADS, "1"))
    return concurrent.futures.ProcessPoolExecutor(
        max_workers=jobs,
        # A forked TensorFlow hangs.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    )


def _start_worker():
    # The parent answers Ctrl-C and stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _silence():
        from ktransfer.engine import backend

        backend.pin()
        backend.start()


@contextlib.contextmanager
def _silence():
    """Keep what TensorFlow's start prints off the terminal of a sweep.

    Its messages about devices and kernels are written to the descriptor, and
    no setting reaches them. Errors are exceptions and come through.
    """
    if os.environ.get("KT_DEBUG") == "1":
        yield
        return
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def sweep(planned, results, executor, say=lambda line: None, choice=""):
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
    runs.check_results_folder(results)
    fresh = {
        runs.from_fields(record)
        for record in runs.collect(results, planned, choice)
        if not record["stale"] and record["status"] != "failed"
    }
    stale = [run for run in planned if run not in fresh]
    bases, later = _sources(stale)
    futures = {executor.submit(_ensure_source, results, p): p for p in bases}
    for future in _completed(futures):
        say(_source_line(futures[future], future.result()))
    # Runs that need none of the later sources do not wait for them.
    futures = {executor.submit(_ensure_source, results, p): p for p in later}
    beside = {"choice": choice, "commit": commit()}
    for group in sorted(_groups(stale), key=_waits):
        futures[executor.submit(_carry_out_all, results, group, beside)] = None
    done = failed = 0
    for future in _completed(futures):
        if futures[future]:
            say(_source_line(futures[future], future.result()))
            continue
        for record in future.result():
            done += 1
            failed += record["status"] == "failed"
            say(_run_line(done, len(stale), record))
    return len(stale), failed


def _groups(planned):
    """Return lists of runs that a worker takes at once.

    Runs that differ in seeds, labels and rates share a compiled program. Long
    ones gain little by it and would leave a core idle at the end.
    """
    alike = {}
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
    found = []
    for key, members in alike.items():
        size = max(GROUP_STEPS // key.steps, 1)
        found += [members[i : i + size] for i in range(0, len(members), size)]
    return found


def _carry_out_all(results, group, beside):
    return [carry_out(results, run, beside) for run in group]


@functools.cache
def commit():
    """Return the commit of the package's code, "" outside a checkout of it.

    A code that was changed since ends with "-dirty".
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    ask = {"capture_output": True, "text": True, "check": True}
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "."], **ask)
        found = subprocess.run([*git, "describe", "--always", "--dirty"], **ask)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def _completed(futures):
    try:
        yield from concurrent.futures.as_completed(futures)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise KTransferError(
            "E_MEMORY",
            "a worker process was killed, most likely for memory; run again "
            "with fewer JOBS. What is finished is kept.",
        ) from error


def _sources(stale):
    """Return the sources that `stale` runs need, each once: bases, the rest."""
    needed = {p: None for run in stale for p in runs.pretrainings(run)}
    bases = {runs.before(p): None for p in needed if p.after}
    bases |= {p: None for p in needed if not p.after}
    return list(bases), [p for p in needed if p.after]


def _waits(group):
    """Tell whether runs of one program need a source that goes on from one."""
    return any(p.after for p in runs.pretrainings(group[0]))


def _ensure_source(results, pretraining):
    from ktransfer.runs import sources

    return sources.load(results, pretraining)[1]


def _source_line(pretraining, facts):
    after = f" after {pretraining.after}" if pretraining.after else ""
    return (
        f"source {pretraining.task}{after}, seed {pretraining.seed}: "
        f"{facts['test_accuracy']:.1%} on its own test images "
        f"({pretraining.steps:,} steps, {facts['seconds']:.0f} s)"
    )


def _run_line(done, total, record):
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


def _result(record):
    if "information" in record:
        return f"{record['information']:.2f} nats"
    if "validation_accuracy" in record:
        return f"{record['validation_accuracy']:6.1%} held out"
    return f"{record['test_accuracy']:6.1%}"


# One run


def carry_out(
    results: str | Path, run: runs.Run, beside: dict[str, str] | None = None
) -> Record:
    """Carry out `run` unless its record is fresh, write and return the record.

    A method that does not apply, diverges or fails gives a record too. Full
    disks and memory do not: they end the sweep.

    Args:
        results: folder of records and sources.
        run: the `Run`.
        beside: what its record says besides, outside of the fingerprint:
            `choice` and `commit`.
    """
    beside = {"choice": "", "commit": "", **(beside or {})}
    with runs.run_lock(results, run):
        record = runs.find(results, run)
        if not runs.is_fresh(record, run, beside["choice"]):
            record = cast(Record, {**_record(results, run), **beside})
            runs.write(results, record)
    return cast(Record, record)


def _record(results, run):
    from ktransfer.engine import backend

    about = methods.describe(run.method)
    loaded = [_source(results, p) for p in runs.pretrainings(run)]
    record = {
        **runs.as_fields(run),
        **_UNMEASURED,
        "code": runs.code(run),
        "defaults": about.hyperparameters,
        "family": about.family,
        "fingerprint": runs.fingerprint(run),
        "numerics": _numerics(results, run, backend.facts()),
        "source_test_accuracies": [f["test_accuracy"] for _, f in loaded],
    }
    try:
        record |= measured(run, [source for source, _ in loaded])
    except MemoryError as error:
        raise KTransferError(
            "E_MEMORY", f"out of memory in {run.method}; use fewer JOBS."
        ) from error
    if record["status"] in ("diverged", "failed"):
        # Whatever it did to them, the next run starts from the files.
        _source.cache_clear()
    return record


def measured(run, sources):
    """Transfer and measure: return what a record holds of it, and `status`.

    Whatever a number depends on is called from here, or named in `runs.code`.

    Args:
        run: the `Run`.
        sources: its `Source`s.
    """
    from ktransfer.engine import backend

    task = data.load(run.target, run.labels_per_class, run.seed)
    found = {
        "num_classes": task.num_classes,
        "num_labels": len(task.train.y),
        "num_test_images": None,
        "source_origins": [source.task.origin for source in sources],
        "target_origin": task.origin,
        "target_sha256": task.sha256,
    }
    try:
        return found | _measure(run, task, sources)
    except NotApplicable as error:
        return found | {"status": "not_applicable", "reason": error.message}
    except Diverged as error:
        return found | {"status": "diverged", "reason": str(error)}
    except MemoryError:
        raise
    except Exception as error:
        return found | {"status": "failed", "reason": _one_line(error)}
    finally:
        backend.clear_session()


@functools.lru_cache(maxsize=4)
def _source(results, pretraining):
    """Return a source, and its facts, read once a worker: no run changes it."""
    from ktransfer.runs import sources

    return sources.load(results, pretraining)


def _one_line(error):
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def _measure(run, task, sources):
    from ktransfer.engine import training
    from ktransfer.models import surgery

    held = None
    if run.evaluation == "validation":
        train, held = data.validation_split(task.train, seed=run.seed)
        task = task._replace(train=train)
    before = [_state_hash(source.model) for source in sources]
    transfer = methods.load(run.method)
    training.ledger()
    start = time.process_time()
    with data.sealed():
        model = transfer(
            task,
            *sources,
            steps=run.steps,
            seed=run.seed,
            **dict(run.hyperparameters),
        )
    seconds = time.process_time() - start
    fits = training.ledger()
    if before != [_state_hash(source.model) for source in sources]:
        raise KTransferError(
            "E_INVARIANT", f"{run.method} changed a source or froze it"
        )
    weighted = [x for x in surgery.leaves(model) if x.weights]
    return {
        **EVALUATIONS[run.evaluation](run, model, task, held, sources),
        **_beside(run, task, sources, model),
        "curve": _curve(fits),
        "frozen_layers": sorted(x.name for x in weighted if not x.trainable),
        "seconds": round(seconds, 2),
        "steps_done": sum(fit.steps for fit in fits),
        "total_parameters": model.count_params(),
        "trainable_parameters": max(
            (fit.trainable_parameters for fit in fits), default=0
        ),
        "trained_layers": sorted(x.name for x in weighted if x.trainable),
    }


def _on_test_split(run, model, task, held, sources):
    return evaluate(model, run.target)


def _on_held_out(run, model, task, held, sources):
    from ktransfer.measures import evaluation

    value = evaluation.accuracy(model, held)
    return {"status": "ok", "validation_accuracy": value}


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


def evaluate(model, target):
    """Open the test split of `target`, once, and measure `model` on it.

    Returns:
        dictionary for the record: accuracies and the mean cross-entropy in
        nats; status `diverged` where a logit is not finite.
    """
    from ktransfer.engine import training

    test = data.test_split(target)
    logits = training.predict(model, test.x).astype("float64")
    if not np.isfinite(logits).all():
        return {"status": "diverged", "reason": "logits are not finite"}
    right = logits.argmax(axis=-1) == test.y
    top = logits.max(axis=-1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=-1))
    losses = log_sum - logits[np.arange(len(test.y)), test.y]
    per_class = [right[test.y == k].mean() for k in range(logits.shape[-1])]
    return {
        "status": "ok",
        "num_test_images": len(test.y),
        "test_accuracy": float(right.mean()),
        "test_loss": float(losses.mean()),
        "per_class_accuracy": [round(float(a), 6) for a in per_class],
    }


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


def stop(executor):
    """End the worker processes of `executor` at once; no run is recorded."""
    processes = getattr(executor, "_processes", None) or {}
    for process in list(processes.values()):
        process.kill()
    executor.shutdown(wait=False, cancel_futures=True)


def print_line(line):
    """Print a line of progress at once, also through a pipe."""
    print(line, file=sys.stderr, flush=True)
