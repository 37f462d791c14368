"""Ours on the grid: 180 runs, as a sweep carries them out, two at once."""

import json
import os
import statistics
import sys
import tempfile
import time

from common import FOLDER, UNITS, ended

from ktransfer import runs
from ktransfer.runs.sweep import sweep
from ktransfer.runs.workers import local_executor

STEPS = 600
RATE = 1e-3
SETTINGS = [
    *((None, rate) for rate in (1e-2, RATE, 1e-4)),
    *((UNITS, rate) for rate in (RATE, 1e-4)),
]


def planned():
    """Return six seeds x six label budgets x five heads and rates."""
    return [
        runs.Run(
            experiment="grid",
            method="feature_extraction",
            target="mnist",
            steps=STEPS,
            seed=seed,
            labels_per_class=labels,
            sources=("cifar10",),
            source_seed=0,
            source_steps=390,
            hyperparameters=(("hidden_units", units), ("learning_rate", rate)),
        )
        for units, rate in SETTINGS
        for labels in (1, 5, 10, 50, 100, None)
        for seed in range(6)
    ]


def main():
    results = tempfile.mkdtemp(dir=FOLDER)
    wanted = planned()
    # The source is there before the clock starts, as for the others, and no
    # features of it are.
    _sweep([wanted[0]._replace(experiment="source")], results, 1)
    before, _ = ended()
    start = time.perf_counter()
    count, failed = _sweep(wanted, results, int(sys.argv[3]))
    seconds = time.perf_counter() - start
    assert (count, failed) == (180, 0), (count, failed)
    records = runs.collect(results, wanted)
    spent = {"hidden": 0.0, "linear": 0.0}
    for record in records:
        units = record["hyperparameters"]["hidden_units"]
        spent["hidden" if units else "linear"] += record["seconds"]
    after, peak = ended()
    spent["other"] = after - before - sum(spent.values())
    # Of the rate that the others are sampled at.
    accuracies = [
        record["test_accuracy"]
        for record in records
        if record["hyperparameters"]["learning_rate"] == RATE
    ]
    found = {
        "seconds": [seconds],
        "accuracy": statistics.mean(accuracies),
        "spent": spent,
        "peak": peak,
    }
    print(json.dumps(found))


def _sweep(wanted, results, jobs):
    """Carry out runs in new processes, with no features kept from others."""
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=FOLDER)
    workers = local_executor(jobs)
    try:
        return sweep(wanted, results, workers)
    finally:
        workers.shutdown()


if __name__ == "__main__":
    main()
