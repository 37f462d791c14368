"""Ours: `feature/feature_extraction`, as `fit` trains it."""

import os
import tempfile
import time

# No features of an earlier repeat.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()

from common import BATCH, EPOCHS, RATE, arrays, report, source_and_task

from ktransfer import methods
from ktransfer.engine import feature_cache, training


def main():
    test_x, test_y = arrays("test_x", "test_y")
    source, task = source_and_task()
    transfer = methods.load("feature_extraction")
    spent, real = [], feature_cache.values

    def timed(graph, images):
        before = time.perf_counter()
        found = real(graph, images)
        spent.append(time.perf_counter() - before)
        return found

    feature_cache.values = timed
    start = time.perf_counter()
    model = transfer(
        task,
        source,
        steps=EPOCHS * len(task.train.y) // BATCH,
        seed=0,
        learning_rate=RATE,
        batch_size=BATCH,
    )
    seconds = time.perf_counter() - start
    features = sum(spent)
    guesses = training.predict(model, test_x).argmax(-1)
    report([seconds], guesses, test_y, features=features)


main()
