"""What it saves to stack linear heads in one program: the time of a step.

One thread, as a worker has; Adam on batches of their own, features gathered
from one array. The grid's heads are trained one after the other because of it.
"""

import json
import time

import numpy as np
import tensorflow as tf
from common import BATCH, arrays

COUNTS = (1, 6, 36)
STEPS, REPEATS = 100, 5
DECAYS = {"beta1": 0.9, "beta2": 0.999}


def main():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    z, y = map(tf.constant, arrays("train_z", "train_y"))
    found = {count: _milliseconds(z, y, count) for count in COUNTS}
    print(json.dumps({"milliseconds": found}))


def _milliseconds(z, y, count):
    """Return the least time of a step of one of `count` stacked heads."""
    shapes = ((count, z.shape[1], 10), (count, 1, 10))
    weights = [tf.Variable(tf.zeros(shape)) for shape in shapes]
    moments = [[tf.Variable(tf.zeros(s)) for s in shapes] for _ in range(2)]
    rng = np.random.default_rng(0)
    rows = tf.constant(rng.integers(0, len(z), (STEPS, count, BATCH)))

    @tf.function
    def train(rows):
        for step in tf.range(STEPS):
            x, labels = tf.gather(z, rows[step]), tf.gather(y, rows[step])
            kernel, bias = weights
            p = tf.nn.softmax(tf.matmul(x, kernel) + bias)
            wrong = (p - tf.one_hot(labels, 10)) / BATCH
            slopes = (
                tf.matmul(x, wrong, transpose_a=True),
                tf.reduce_sum(wrong, axis=1, keepdims=True),
            )
            powers = {
                f"{name}_power": decay ** tf.cast(step + 1, "float32")
                for name, decay in DECAYS.items()
            }
            for variable, slope, m, v in zip(weights, slopes, *moments):
                tf.raw_ops.ResourceApplyAdam(
                    var=variable.handle,
                    m=m.handle,
                    v=v.handle,
                    grad=slope,
                    lr=1e-3,
                    epsilon=1e-7,
                    **DECAYS,
                    **powers,
                )

    train(rows)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        train(rows)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds) / STEPS / count


main()
