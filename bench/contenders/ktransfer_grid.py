"""Ours on the grid: 180 runs, as a sweep carries them out, two at once."""

import os
import resource
import sys
import tempfile
import time

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()

from common import FOLDER, report

from ktransfer import execute, runs

STEPS = 600
SETTINGS = [(None, 1e-2), (None, 1e-3), (None, 1e-4), (512, 1e-3), (512, 1e-4)]


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
    # The source is there before the clock starts, as for the others.
    first = execute.local_executor(1)
    execute.sweep([wanted[0]._replace(experiment="source")], results, first)
    first.shutdown()
    before = _processor_seconds()
    start = time.perf_counter()
    workers = execute.local_executor(int(sys.argv[3]))
    count, failed = execute.sweep(wanted, results, workers)
    seconds = time.perf_counter() - start
    workers.shutdown()
    assert (count, failed) == (180, 0), (count, failed)
    records = runs.collect(results, wanted)
    best = max(record["test_accuracy"] for record in records)
    spent = {"hidden": 0.0, "linear": 0.0}
    for record in records:
        units = record["hyperparameters"]["hidden_units"]
        spent["hidden" if units else "linear"] += record["seconds"]
    spent["other"] = _processor_seconds() - before - sum(spent.values())
    # In KiB; of the largest process that has ended.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    report([seconds], [best], [best], spent=spent, peak=peak)


def _processor_seconds():
    """Return those of all workers that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
