"""The gate: plain Keras on our start and our batches ends at our weights.

A linear head for a whole epoch, the head with a hidden layer for ten steps:
from there on its rounding grows, and what that makes of two programs is shown
by plain Keras with and without XLA.
"""

import json
import os
import tempfile

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()

import keras
import numpy as np
from common import BATCH, RATE, UNITS, arrays, source_and_task

from ktransfer import methods
from ktransfer.engine import training

FEW = 10


def main():
    source, task = source_and_task()
    whole = len(task.train.y) // BATCH
    found = {
        "hidden": _distance(task, source, steps=FEW, hidden_units=UNITS),
        "linear": _distance(task, source, steps=whole, hidden_units=None),
        "whole": _distance(task, source, steps=whole, hidden_units=UNITS),
    }
    found["whole"]["distance_of_keras_to_itself"] = _of_keras(whole)
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
    rows = training.epoch_order(len(task.train.y), steps, BATCH, 0).ravel()
    _fit(model, task.train.x[rows], task.train.y[rows], jit_compile="auto")
    end = _trained(model)
    apart = np.linalg.norm(_trained(ours) - end)
    distance = float(apart / np.linalg.norm(end - start))
    return {"distance": distance, "steps": steps}


def _of_keras(steps):
    """Return the distance of two ends of plain Keras, with and without XLA."""
    z, y = arrays("train_z", "train_y")
    ends, starts = [], []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        head = keras.Sequential(
            [
                keras.Input(z.shape[1:]),
                keras.layers.Dense(UNITS, activation="relu"),
                keras.layers.Dense(10),
            ]
        )
        starts.append(_trained(head))
        seen = steps * BATCH
        _fit(head, z[:seen], y[:seen], jit_compile)
        ends.append(_trained(head))
    np.testing.assert_array_equal(*starts)
    apart = np.linalg.norm(ends[1] - ends[0])
    return float(apart / np.linalg.norm(ends[0] - starts[0]))


def _fit(model, x, y, jit_compile):
    model.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)


def _trained(model):
    return np.concatenate(
        [v.numpy().ravel() for v in model.trainable_variables]
    )


main()
