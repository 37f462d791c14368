"""A run and its record: identity, fingerprint, and the files under `results/`.

`results/<experiment>/records/<sources>-<target>/<method>.jsonl` holds one
canonical JSON line a run. A record whose fingerprint still holds is not run
again, whatever the file times say. No Keras import.
"""

import functools
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ktransfer import data, files, fingerprints, methods
from ktransfer.errors import KTransferError

SCHEMA = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
_PACKAGE = Path(__file__).resolve().parent
_LARGEST_FILE = 64 * 2**20


class Pretraining(NamedTuple):
    """How a source is made: what to train, on what, how long, from which seed.

    `after` names the task whose source it goes on from; all sources of one
    seed and backbone start from the same initial weights. `recipe` names the
    function of `sources` that trains it.
    """

    task: str
    after: str | None
    backbone: str
    steps: int
    seed: int
    recipe: str = "pretrain"


class Run(NamedTuple):
    """One training and one evaluation; equal runs have equal records.

    `sources` are names of tasks; `b_after_a` is the source of task a, trained
    on by task b. `labels_per_class` None means all labels.

    `evaluation` is "test", or for a trial that tunes, with the test split
    closed, "validation", accuracy on a part of the labelled images that is
    held out, or "information", which reads no label (see `measures`). `also`
    names tasks whose test images the model is measured on as well, `scores`
    functions of `transferability` that judge the source.
    """

    experiment: str
    method: str
    target: str
    steps: int
    seed: int
    labels_per_class: int | None = None
    sources: tuple[str, ...] = ()
    source_seed: int | None = None
    source_steps: int | None = None
    backbone: str = "convnet"
    hyperparameters: tuple[tuple[str, Any], ...] = ()
    evaluation: str = "test"
    also: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    recipe: str = "pretrain"


# At their default these fields stay out of a record and of its fingerprint.
_OPTIONAL = ("evaluation", "also", "scores", "recipe")


# Identity


def pretrainings(run):
    """Return the `Pretraining` of each source of `run`, in order."""
    return [_pretraining(name, run) for name in run.sources]


def _pretraining(name, run):
    task, _, after = name.partition("_after_")
    return Pretraining(
        task,
        after or None,
        run.backbone,
        run.source_steps,
        run.source_seed,
        run.recipe,
    )


def before(pretraining):
    """Return the `Pretraining` that this one goes on from, or None."""
    if pretraining.after is None:
        return None
    return pretraining._replace(task=pretraining.after, after=None)


def in_precision(run, precision):
    """Return `run` with all trainings in `precision`, in a folder of its own.

    A source that has a recipe of its own keeps it, and so its precision.
    """
    if precision == "float32":
        return run
    given = dict(run.hyperparameters)
    if "precision" in methods.describe(run.method).hyperparameters:
        given["precision"] = precision
    usual = run.sources and run.recipe == "pretrain"
    return run._replace(
        experiment=f"{run.experiment}_{precision}",
        hyperparameters=tuple(sorted(given.items())),
        recipe=precision if usual else run.recipe,
    )


def as_fields(run):
    """Return `run` as the dictionary that its record holds."""
    fields = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in run._asdict().items()
        if name not in _OPTIONAL or value != Run._field_defaults[name]
    }
    fields["hyperparameters"] = dict(run.hyperparameters)
    return fields


def from_fields(fields):
    """Return the `Run` of a record."""
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
        if name in Run._fields
    }
    # JSON has no tuples, and a run is looked up by its hash.
    pairs = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields["hyperparameters"].items()
    }
    values["hyperparameters"] = tuple(sorted(pairs.items()))
    return Run(**values)


def record_path(results, run):
    """Return the file that holds the record of `run`."""
    for name in (run.experiment, run.method, run.target, *run.sources):
        if not _NAME.fullmatch(name):
            raise KTransferError(
                "E_ARGUMENT",
                f"{name!r} cannot name a file; expected lower-case letters, "
                "digits and underscores, at most 64.",
            )
    pair = f"{'+'.join(run.sources) or 'none'}-{run.target}"
    folder = Path(results) / run.experiment / "records" / pair
    return folder / f"{run.method}.jsonl"


# Fingerprints


def fingerprint(run):
    """Return the sha256 of everything that can move a number of `run`."""
    parts = {
        "code": code(run),
        "data": [_data(name) for name in (run.target, *run.also)],
        "run": as_fields(run._replace(experiment="")),
        "sources": [source_fingerprint(p) for p in pretrainings(run)],
        "switches": fingerprints.switches(),
    }
    return files.sha256(canonical(parts).encode())


def _data(name):
    return [data.digest(name), *data.classes(name)]


def code(run):
    """Return the sha256 of the code behind `run`, which is known without data.

    That of its sources is among it.
    """
    starts = [
        (methods.path(run.method), "transfer"),
        (_PACKAGE / "execute.py", "measured"),
        # `data.load`, which stands for the arrays, calls it.
        (_PACKAGE / "data" / "subsets.py", "subset"),
    ]
    choices = [("EVALUATIONS", (run.evaluation,)), ("SCORES", run.scores)]
    if run.sources:
        starts.append((_PACKAGE / "sources.py", "load"))
        choices += _made_by(run)
    return fingerprints.code(*starts, choices=tuple(choices))


def _source_code(pretraining):
    start = _PACKAGE / "sources.py", "make"
    return fingerprints.code(start, choices=_made_by(pretraining))


def _made_by(made):
    """Return the entries that a source rests on, of a run or `Pretraining`."""
    return ("BUILDERS", (made.backbone,)), ("RECIPES", (made.recipe,))


@functools.cache
def source_fingerprint(pretraining):
    """Return the sha256 of everything that can move a weight of a source."""
    base = before(pretraining)
    parts = {
        "after": base and source_fingerprint(base),
        "code": _source_code(pretraining),
        "data": _data(pretraining.task),
        "pretraining": pretraining._asdict(),
        "switches": fingerprints.switches(),
    }
    return files.sha256(canonical(parts).encode())


def canonical(value):
    """Return `value` as JSON with sorted keys and no NaN."""
    return json.dumps(
        value,
        allow_nan=False,
        ensure_ascii=False,
        separators=(",", ":"),
        sort_keys=True,
    )


# Records


def read(path):
    """Return the records of one file, checked line by line.

    Raises:
        KTransferError: `E_RECORD` for a line that was edited, copied to
            another place, doubled or written by a newer version.
    """
    path = Path(path)
    if not path.exists():
        return []
    if path.stat().st_size > _LARGEST_FILE:
        raise _damaged(path, 0, "the file is larger than 64 MiB")
    records, seen = [], set()
    # A text may hold what other kinds of lines end with.
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, start=1):
        record = _parse(path, number, line)
        run = from_fields(record)
        if run in seen or record_path(path.parents[3], run) != path:
            raise _damaged(path, number, "it is doubled or in the wrong place")
        seen.add(run)
        records.append(record)
    return records


def _parse(path, number, line):
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise _damaged(path, number, "it is not JSON") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise _damaged(path, number, f"its schema is not {SCHEMA}")
    content = {key: value for key, value in record.items() if key != "sha256"}
    if files.sha256(canonical(content).encode()) != record.get("sha256"):
        raise _damaged(path, number, "its content does not match its sha256")
    return record


def _damaged(path, number, why):
    return KTransferError(
        "E_RECORD",
        f"{path} line {number}: {why}; expected a record as written. Remove "
        "the line and its run is done again.",
    )


def write(results, record):
    """Add `record`, or put it in place of its run's older one."""
    run = from_fields(record)
    path = record_path(results, run)
    record = {**record, "schema": SCHEMA}
    record.pop("sha256", None)
    record["sha256"] = files.sha256(canonical(record).encode())
    with files.lock(_lock_path(results, run.experiment, path.name)):
        files.remove_leftovers(path.parent)
        kept = [old for old in read(path) if from_fields(old) != run]
        ordered = sorted([*kept, record], key=_order)
        text = "".join(f"{canonical(one)}\n" for one in ordered)
        files.write(path, text.encode())


def _order(record):
    labels = record["labels_per_class"]
    return (
        canonical(record["hyperparameters"]),
        float("inf") if labels is None else labels,
        record["seed"],
        canonical(record),
    )


def _lock_path(results, experiment, name):
    return Path(results) / ".locks" / experiment / name


def run_lock(results, run):
    """Return the lock that whoever carries out `run` holds."""
    key = files.sha256(canonical(as_fields(run)).encode())[:16]
    return files.lock(_lock_path(results, run.experiment, key))


def find(results, run):
    """Return the record of `run`, or None."""
    for record in read(record_path(results, run)):
        if from_fields(record) == run:
            return record
    return None


def is_fresh(record, run, choice=""):
    """Tell whether `record` stands for `run` as the code and data are now.

    Args:
        record: of the run, or None.
        run: the `Run`.
        choice: sha256 of the choice that the run rests on, "" if on none.
    """
    return (
        record is not None
        and record["status"] != "failed"
        and record.get("choice", "") == choice
        and record["fingerprint"] == fingerprint(run)
    )


def collect(results, wanted, choice=""):
    """Return the records of the runs `wanted`, each with its key `stale`.

    Tables and figures need no data: where they are not on this machine, a
    record is compared by its code and by the `choice` it rests on alone.
    """
    by_file = {}
    for run in wanted:
        by_file.setdefault(record_path(results, run), []).append(run)
    found = []
    for path, planned in by_file.items():
        records = {from_fields(record): record for record in read(path)}
        for run in planned:
            if run in records:
                stale = _is_stale(records[run], run, choice)
                found.append({**records[run], "stale": stale})
    return found


def _is_stale(record, run, choice):
    if record.get("code") != code(run) or record.get("choice", "") != choice:
        return True
    try:
        with data.without_network():
            return record["fingerprint"] != fingerprint(run)
    except KTransferError as error:
        if error.name in ("E_OFFLINE", "E_MISSING_PACKAGE"):
            return False
        raise


def check_results_folder(folder):
    """Refuse, before anything is trained, a folder that cannot be written."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KTransferError(
            "E_RESULTS_DIR",
            f"results folder {folder} cannot be made ({error.strerror}); name "
            "another with --results.",
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise KTransferError(
            "E_RESULTS_DIR",
            f"results folder {folder} is not writable; name another with "
            "--results or change its permissions.",
        )
