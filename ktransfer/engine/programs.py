"""Compiled programs, traced once for all models of one architecture.

Tracing a training costs as much as hundreds of its steps, and a suite is
hundreds of small trainings. A program is kept with the variables it was traced
with; a model of the same structure lends it its values, and takes them back
with what training made of them. Which runs came before moves no bit.
"""

import collections
import contextlib
import threading
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from ktransfer.engine import backend, optimizers
from ktransfer.engine.structures import structure

# Programs that a process keeps, those used last.
KEPT = 24
# Rows of a batch in inference.
BATCH = 250

_programs: collections.OrderedDict = collections.OrderedDict()
# A program works on one model's values; a thread waits for the other.
_one_at_a_time = threading.RLock()


class Program(NamedTuple):
    """A model that is compiled, and all variables that it computes with.

    `start` holds the values of the optimiser's variables at step 0.
    """

    model: keras.Model
    variables: list
    start: list


def forget():
    """Let go of all programs."""
    _programs.clear()


@contextlib.contextmanager
def training(objective, names, loss, optimizer, *, scales, batch):
    """Yield an `Objective` that trains the variables of `objective`.

    It is the given one, or one of the same structure that was traced before,
    which holds the values inside the `with` block. The optimiser is fresh.

    Args:
        objective: an `Objective`, not compiled; its `trainable_variables` are
            trained.
        names: of its inputs, in their order.
        loss: function (labels, outputs) -> scalar.
        optimizer: class or function learning_rate -> fresh Keras optimiser.
        scales: of the update, one a trainable variable.
        batch: what tells the shapes of a call, since a program is for one.
    """
    given = structure(objective, list(names), loss, optimizer, scales, batch)

    def make():
        objective.prepare(names, loss)
        # The rate is given with the batch.
        trained = objective.trainable_variables
        made = optimizers.scaled(optimizer(1.0), trained, scales)
        # XLA was measured: slower in convolutions and linear heads, and in
        # dense ones no faster than `optimizers.Adam` without it.
        objective.compile(made, jit_compile=False)
        # Left to the first call, they make Keras trace twice.
        made.build(trained)
        return objective

    program, variables = _find(given, "training", make)
    for variable, value in zip(
        program.model.optimizer.variables, program.start
    ):
        variable.assign(value)
    with _lent(program, variables):
        yield program.model


def forward(model, inputs):
    """Return the outputs of `model` for all rows of `inputs`, an array.

    In inference mode, `BATCH` rows at a time.

    Args:
        model: one output.
        inputs: `(n, ...)`, or a list of such arrays, one an input.
    """
    n = len(keras.tree.flatten(inputs)[0])
    padded = -(-n // BATCH) * BATCH
    # Batches have one shape, so no row depends on how many others there are.
    rows = np.minimum(np.arange(padded), n - 1).reshape(-1, BATCH)
    kinds = [(x.shape[1:], x.dtype.str) for x in keras.tree.flatten(inputs)]
    given = structure(model, kinds)
    program, variables = _find(given, "inference", lambda: model)
    found = None
    with _one_at_a_time, _lent(program, variables):
        for start, batch in zip(range(0, padded, BATCH), rows):
            part = program.model.predict_on_batch(
                keras.tree.map_structure(lambda x: x[batch], inputs)  # noqa: B023
            )
            if found is None:
                found = np.empty((padded, *part.shape[1:]), part.dtype)
            found[start : start + BATCH] = part
    return found[:n]


def _find(given, kind, make):
    """Return the `Program`, kept or made, and the variables of this model."""
    if given is None:
        return _program(make(), []), []
    key = kind, given.key
    if key not in _programs:
        _programs[key] = _program(make(), given.variables)
    _programs.move_to_end(key)
    if len(_programs) > KEPT:
        _programs.popitem(last=False)
    return _programs[key], given.variables


def _program(model, variables):
    optimizer = getattr(model, "optimizer", None)
    start = [v.numpy() for v in optimizer.variables] if optimizer else []
    return Program(model, list(variables), start)


@contextlib.contextmanager
def _lent(program, variables):
    """Have `program` work on the values of `variables`, and take them back."""
    kept = program.variables
    if all(own is mine for own, mine in zip(kept, variables)):
        yield
        return
    before = [variable.numpy() for variable in kept]
    _assign(kept, [variable.numpy() for variable in variables])
    try:
        yield
    finally:
        found = [variable.numpy() for variable in kept]
        # In this order, since a variable may stand on both sides.
        _assign(kept, before)
        _assign(variables, found)


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class Objective(keras.Model):
    """A graph that takes many steps a call, and any loss.

    What a call gets, `num` being the most steps a call takes: `inputs` by name
    and `labels` by stream, each as `values`, `(num * batch, ...)`, and the
    `rows` of them that a step takes, `(num, batch)`; `progress` and
    `learning_rate`, `(num,)`; and `count`, `(1,)`, the steps to take.
    """

    def prepare(self, names, loss):
        self._names = names
        self._loss = loss

    def train_step(self, data):
        # All is an argument and not captured: TensorFlow keeps the graph of a
        # loop, and with it what it captured, for ever.
        given, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        trained = self.trainable_variables

        def one(step, total):
            self.optimizer.learning_rate.assign(given["learning_rate"][step])
            images, labels = self._batch(given, step)
            value, slopes = backend.value_and_gradients(
                lambda: self._value(images, labels), trained
            )
            self.optimizer.apply(slopes, trained)
            return total + value

        count = given["count"][0]
        total = ops.fori_loop(0, count, one, ops.zeros(()))
        return {"loss": total / ops.cast(count, "float32")}

    def _value(self, images, labels):
        outputs = self(images, training=True)
        # What a layer of lower precision gives is not summed in it.
        wide = keras.tree.map_structure(_as_float32, outputs)
        return self._loss(labels, wide) + sum(self.losses)

    def _batch(self, given, step):
        taken, labels = (
            {
                name: backend.take_rows(table["values"], table["rows"][step])
                for name, table in given[group].items()
            }
            for group in ("inputs", "labels")
        )
        if "progress" in self._names:
            size = next(iter(taken.values())).shape[0]
            taken["progress"] = ops.full((size, 1), given["progress"][step])
        images = [taken[name] for name in self._names]
        lone = set(labels) == {"target"}
        return images, labels["target"] if lone else labels


def _as_float32(x):
    low = keras.backend.standardize_dtype(x.dtype) == "bfloat16"
    return ops.cast(x, "float32") if low else x
