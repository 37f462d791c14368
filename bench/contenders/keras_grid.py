"""A and B on the grid: heads one after the other, a sample of them.

`guide` trains each inside the frozen model, built and compiled anew. `cached`
computes features once and compiles once a kind of head; weights and optimiser
are then put back, and it draws the batches itself, so that `fit` only trains.
"""

import sys
import time

import keras
import numpy as np
from common import BATCH, FOLDER, UNITS, arrays, report

CACHED = "cached" in sys.argv
STEPS = 600
# Labels a class, None for all: what the 180 heads have, in equal numbers.
BUDGETS = (1, 5, 10, 50, 100, None)
RATE = 1e-3


def subset(y, labels, rng):
    """Return rows of `labels` images a class."""
    order = rng.permutation(len(y))
    if labels is None:
        return order
    return np.concatenate([order[y[order] == k][:labels] for k in range(10)])


def drawn(rows, rng):
    """Return the rows of all steps, epoch after epoch."""
    wanted = STEPS * BATCH
    epochs = -(-wanted // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(epochs)])[
        :wanted
    ]


def built(x, base, units):
    inputs = keras.Input(x.shape[1:], dtype=x.dtype)
    hidden = inputs if CACHED else base(inputs, training=False)
    if units:
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(10)(hidden))
    model.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=CACHED,
        steps_per_execution=30 if CACHED else 1,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def state(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def put_back(model, values):
    variables = (*model.variables, *model.optimizer.variables)
    for variable, value in zip(variables, values):
        variable.assign(value)


def main():
    x, y, test_x, test_y = arrays("train_x", "train_y", "test_x", "test_y")
    base = keras.saving.load_model(FOLDER / "backbone.keras")
    base.trainable = False
    start = time.perf_counter()
    if CACHED:
        x = base.predict(x, batch_size=250, verbose=0)
        test_x = base.predict(test_x, batch_size=250, verbose=0)
    once = time.perf_counter() - start
    seconds, guesses = {"linear": [], "hidden": []}, []
    for kind, units in (("linear", None), ("hidden", UNITS)):
        model = None
        for number, labels in enumerate(BUDGETS):
            rng = np.random.default_rng(number)
            start = time.perf_counter()
            if model is None or not CACHED:
                keras.utils.clear_session()
                keras.utils.set_random_seed(number)
                model = built(x, base, units)
                fresh = state(model)
            put_back(model, fresh)
            rows = drawn(subset(y, labels, rng), rng)
            model.fit(
                x[rows],
                y[rows],
                batch_size=BATCH,
                shuffle=False,
                verbose=0,
            )
            logits = model.predict(test_x, batch_size=250, verbose=0)
            guesses.append(logits.argmax(-1))
            seconds[kind].append(time.perf_counter() - start)
    # The mean over the sample.
    report([once], guesses, np.array([test_y] * len(guesses)), kinds=seconds)


main()
