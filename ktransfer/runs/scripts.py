"""An experiment's script: found, loaded, planned and tuned. No Keras import.

A script in `experiments/` defines `runs()`, its planned runs, and
`figures(records, mix)`. One that comes in two sizes has the constants `NORMAL`
and `QUICK`, and every function of it takes the size first. One that tunes also
defines `trials(size)`, runs that are evaluated on held-out training images; its
`runs` then takes the chosen hyper-parameters last: target -> method ->
dictionary.
"""

import importlib.util
import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ktransfer import files, runs
from ktransfer.errors import KTransferError, unknown

FOLDER = Path("experiments")


class Experiment(NamedTuple):
    """A loaded script, and how its runs are carried out.

    `size` holds its size, or is empty if it has one; `precision` is that of
    all trainings.
    """

    script: Any
    size: tuple
    precision: str = "float32"


def names():
    """Return the names of the scripts in `experiments/`."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name, quick=False, precision="float32"):
    """Return the `Experiment` of a script, given by its path or its name.

    Raises:
        KTransferError: `E_UNKNOWN`, or `E_ARGUMENT` if it has no quick size.
    """
    path = Path(name)
    if path.suffix != ".py":
        path = FOLDER / f"{name.replace('-', '_')}.py"
    if not path.exists():
        raise unknown("experiment", name, names())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    sized = hasattr(script, "QUICK")
    if quick and not sized:
        raise KTransferError(
            "E_ARGUMENT", f"{path.stem} comes in one size; leave out --quick."
        )
    size = (script.QUICK if quick else script.NORMAL,) if sized else ()
    return Experiment(script, size, precision)


def trials(experiment):
    """Return the runs that tune, none for most experiments."""
    if not hasattr(experiment.script, "trials"):
        return []
    return _precise(experiment, experiment.script.trials(*experiment.size))


def planned(experiment, results):
    """Return the runs that report, with the choice that the trials make.

    Raises:
        KTransferError: `E_RECORD` if a trial has no record, or if the choice
            on disk, made before any test split was opened, is another.
    """
    tuning = trials(experiment)
    if not tuning:
        return _precise(experiment, experiment.script.runs(*experiment.size))
    chosen = {
        target: {method: best["hyperparameters"] for method, best in of.items()}
        for target, of in json.loads(_choice_text(tuning, results)).items()
    }
    return _precise(
        experiment, experiment.script.runs(*experiment.size, chosen)
    )


def choice(experiment, results):
    """Return the sha256 of the choice behind `planned`, "" without trials.

    Raises:
        KTransferError: as `planned`.
    """
    tuning = trials(experiment)
    if not tuning:
        return ""
    return files.sha256(_choice_text(tuning, results).encode())


def _choice_text(tuning, results):
    """Return the choice on disk, which must be what the trials give."""
    path = _choice_path(tuning, results)
    if not path.exists():
        raise KTransferError(
            "E_RECORD", f"{path} is not there; run the experiment first."
        )
    text = path.read_text(encoding="utf-8").removesuffix("\n")
    if text != runs.canonical(choose(tuning, results, stale=True)):
        raise KTransferError(
            "E_RECORD",
            f"{path} is not the choice that the trials on record make; run "
            "the experiment again.",
        )
    return text


def _precise(experiment, planned):
    return [runs.in_precision(run, experiment.precision) for run in planned]


def choose(tuning, results, stale=False):
    """Return the best trial of each method on each target, by its mean score.

    Of equal ones the first wins, in the order of the script's grid.

    Args:
        tuning: list of `Run`.
        results: folder of the records.
        stale: take the records of an earlier state of the code too.

    Returns:
        target -> method -> dictionary with `hyperparameters`, `score`,
        `num_trials` and `num_labels`, the labelled images that tuning read.
    """
    records = {
        runs.from_fields(record): record
        for record in runs.collect(results, tuning)
        if record["status"] != "failed" and (stale or not record["stale"])
    }
    if absent := [run for run in tuning if run not in records]:
        raise KTransferError(
            "E_RECORD",
            f"{len(absent)} of {len(tuning)} trials have no record that holds; "
            "run the experiment first.",
        )
    groups = defaultdict(list)
    for run in tuning:
        groups[run.target, run.method].append(run)
    found = defaultdict(dict)
    for (target, method), members in groups.items():
        found[target][method] = _best(members, records)
    return dict(found)


def _best(members, records):
    grid, labels = defaultdict(list), {}
    for run in members:
        record = records[run]
        grid[run.hyperparameters].append(_score(record))
        reads = run.evaluation == "validation"
        labels[run.seed] = record["num_labels"] if reads else 0
    best = max(grid, key=lambda point: fmean(grid[point]))
    return {
        "hyperparameters": dict(best),
        "num_labels": sum(labels.values()),
        "num_trials": len(grid),
        "score": fmean(grid[best]),
    }


def _score(record):
    """Return what a trial is chosen by; one that diverged has the worst.

    A method that does not apply has nothing to choose, and says so again.
    """
    if record["status"] == "not_applicable":
        return 0.0
    if record["status"] != "ok":
        # An information may lie below 0.
        return -math.inf
    kinds = ("validation_accuracy", "information")
    return next(record[kind] for kind in kinds if kind in record)


def write_choice(tuning, results):
    """Put what `choose` finds on disk, before a test split is opened."""
    path = _choice_path(tuning, results)
    text = runs.canonical(choose(tuning, results))
    files.write(path, f"{text}\n".encode())
    return path


def _choice_path(tuning, results):
    return Path(results) / tuning[0].experiment / "chosen.json"
