"""A and B on the grid: heads one after the other, a sample of them.

`guide` trains each inside the frozen model, `cached` on features that are
computed once for all.
"""

import sys
import time

import keras
import tensorflow as tf
from common import BATCH, FOLDER, UNITS, arrays, report

CACHED = "cached" in sys.argv
STEPS = 600
# Of the 180 heads: (labels a class or None for all, hidden units, rate).
SAMPLE = [
    (labels, units, rate)
    for labels in (1, 10, 100, None)
    for units, rate in ((None, 1e-3), (UNITS, 1e-3))
]


def subset(x, y, labels, seed):
    if labels is None:
        return x, y
    rows = tf.random.stateless_uniform([len(y)], [seed, 0]).numpy().argsort()
    kept = [r for k in range(10) for r in rows[y[rows] == k][:labels]]
    return x[kept], y[kept]


def batches(x, y, seed):
    data = tf.data.Dataset.from_tensor_slices((x, y))
    data = data.shuffle(len(y), seed=seed).repeat().batch(BATCH)
    return data.prefetch(tf.data.AUTOTUNE)


def main():
    x, y, test_x, test_y = arrays("train_x", "train_y", "test_x", "test_y")
    base = keras.saving.load_model(FOLDER / "backbone.keras")
    base.trainable = False
    start = time.perf_counter()
    if CACHED:
        x = base.predict(x, batch_size=250, verbose=0)
        test_x = base.predict(test_x, batch_size=250, verbose=0)
    once = time.perf_counter() - start
    seconds = []
    for number, (labels, units, rate) in enumerate(SAMPLE):
        start = time.perf_counter()
        keras.utils.clear_session()
        keras.utils.set_random_seed(number)
        inputs = keras.Input(x.shape[1:], dtype=x.dtype)
        hidden = inputs if CACHED else base(inputs, training=False)
        if units:
            hidden = keras.layers.Dense(units, activation="relu")(hidden)
        model = keras.Model(inputs, keras.layers.Dense(10)(hidden))
        model.compile(
            keras.optimizers.Adam(rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=CACHED,
            steps_per_execution=30 if CACHED else 1,
        )
        few = batches(*subset(x, y, labels, number), number)
        model.fit(few, steps_per_epoch=STEPS, epochs=1, verbose=0)
        guesses = model.predict(test_x, batch_size=250, verbose=0).argmax(-1)
        seconds.append(time.perf_counter() - start)
    report(seconds, guesses, test_y, once=once)


main()
