"""The gate: plain Keras on our start and our batches ends at our weights.

A linear head for a whole epoch; the head with a hidden layer for ten steps,
since from there on Adam makes the last bits of any two programs grow.
"""

import json
import os
import tempfile

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()

import keras
import numpy as np
from common import BATCH, RATE, UNITS, arrays, source_and_task

from ktransfer import methods, training

FEW = 10


def main():
    source, task = source_and_task()
    whole = len(task.train.y) // BATCH
    found = {
        "hidden": _distance(task, source, steps=FEW, hidden_units=UNITS),
        "linear": _distance(task, source, steps=whole, hidden_units=None),
    }
    print(json.dumps(found))


def _distance(task, source, steps, hidden_units):
    """Return how far the two ends are apart, as a share of the way gone."""
    transfer = methods.load("feature_extraction")
    options = {
        "seed": 0,
        "learning_rate": RATE,
        "batch_size": BATCH,
        "hidden_units": hidden_units,
    }
    model = transfer(task, source, steps=0, **options)
    start = _trained(model)
    ours = transfer(task, source, steps=steps, **options)
    order = training.epoch_order(len(task.train.y), steps, BATCH, 0).ravel()
    model.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        task.train.x[order],
        task.train.y[order],
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
    )
    test_x, test_y = arrays("test_x", "test_y")
    end = _trained(model)
    apart = np.linalg.norm(_trained(ours) - end)
    guesses = [training.predict(m, test_x).argmax(-1) for m in (ours, model)]
    return {
        "accuracies": [float(np.mean(g == test_y)) for g in guesses],
        "distance": float(apart / np.linalg.norm(end - start)),
        "steps": steps,
    }


def _trained(model):
    return np.concatenate(
        [v.numpy().ravel() for v in model.trainable_variables]
    )


main()
