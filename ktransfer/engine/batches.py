"""Which images each step takes, and what a call of a program is handed."""

import math
from typing import Any

import numpy as np
from keras import ops

from ktransfer.seeds import stream

# Most steps of one compiled call. The weights do not depend on it.
CHUNK = 50


def epoch_order(n, steps, batch_size, seed, name="target"):
    """Return the rows of every step, integers `(steps, batch_size)`.

    Epoch e of a stream is `default_rng([s, e]).permutation(n)`, s being the
    stream's own seed; the epochs follow each other without a gap.
    """
    own = stream(seed, "order", name)
    epochs = math.ceil(steps * batch_size / n)
    rows = [
        np.random.default_rng([own, e]).permutation(n) for e in range(epochs)
    ]
    flat = np.concatenate(rows)[: steps * batch_size]
    return flat.reshape(steps, batch_size).astype("int32")


def calls(given, orders, by_step):
    """Yield (steps done after it, data) of each call of a program.

    A call has as many rows as a program takes, which is made for a shape, and
    says how many of them count.

    Args:
        given: {"inputs": {name: array}, "labels": {name: array}}.
        orders: name -> rows of every step, `(steps, batch)`.
        by_step: name -> what each step reads, `(steps,)`.
    """
    tables = {
        group: {name: _Table(x, orders[name]) for name, x in members.items()}
        for group, members in given.items()
    }
    for start, stop, places in _chunks(len(next(iter(by_step.values())))):
        call: dict[str, Any] = {
            group: {name: table.call(places) for name, table in of.items()}
            for group, of in tables.items()
        }
        call |= {name: values[places] for name, values in by_step.items()}
        call["count"] = np.array([stop - start], "int32")
        yield stop, call


def _chunks(steps):
    """Yield (first step, the one after the last, rows of by_step) of a call.

    The last row is repeated up to the `CHUNK` steps of a program.
    """
    size = _chunk_size(steps)
    for start in range(0, steps, size):
        stop = min(start + size, steps)
        yield start, stop, np.minimum(np.arange(start, start + CHUNK), stop - 1)


def _chunk_size(steps):
    """Return the largest divisor of `steps` up to `CHUNK`, unless tiny."""
    divisors = [k for k in range(1, min(steps, CHUNK) + 1) if steps % k == 0]
    return divisors[-1] if divisors[-1] > CHUNK // 3 else min(steps, CHUNK)


class _Table:
    """What a call reads of one array: as many values as its steps need.

    Few images are put there once, for all calls; of many, those of the call.
    """

    def __init__(self, array, order):
        self.array, self.order = array, order
        self.most = CHUNK * order.shape[1]
        self.whole = None
        if len(array) <= self.most:
            padded = np.zeros((self.most, *array.shape[1:]), array.dtype)
            padded[: len(array)] = array
            self.whole = ops.convert_to_tensor(padded)

    def call(self, places):
        """Return the values, and the rows of them that each step takes."""
        rows = self.order[places]
        if self.whole is not None:
            return {"values": self.whole, "rows": rows}
        every = np.arange(self.most, dtype="int32").reshape(rows.shape)
        return {"values": self.array[rows.ravel()], "rows": every}
