"""Compiled programs, traced once for all models of one architecture.

Tracing a training costs as much as hundreds of its steps, and a suite is
hundreds of small trainings. A program is kept with the variables it was traced
with. A model of the same structure copies its weights in, trains, and copies
them back; which runs came before changes no result.
"""

import collections
import contextlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from ktransfer.engine import backend
from ktransfer.engine.structures import structure

# Programs that a process keeps, those used last.
KEPT = 24
# Rows of a batch in inference.
BATCH = 250

_programs: collections.OrderedDict = collections.OrderedDict()
# A program works on one model's values, so a thread waits for the other.
_one_at_a_time = threading.RLock()


class Program(NamedTuple):
    """What is compiled, and all variables that it computes with."""

    compiled: Any
    variables: list


class Turn(NamedTuple):
    """What some steps of a training do: a loss, and the weights it moves.

    `loss` is a function (labels, outputs) -> scalar, or -> list of scalars
    where `combine` makes one gradient of theirs: (variables, a list of arrays,
    one a variable, for each loss) -> list of arrays. `variables` are moved.
    """

    loss: Callable
    variables: list
    combine: Callable | None = None


def forget():
    """Let go of all programs."""
    _programs.clear()


@contextlib.contextmanager
def training(objective, names, turns, update, *, scales, batch):
    """Yield a function that takes the steps of a call: arrays -> mean loss.

    What a call gets, `num` being the most steps a call takes: `inputs` by name
    and `labels` by stream, each as `values`, `(num * batch, ...)`, and the
    `rows` of them that a step takes, `(num, batch)`; `progress`,
    `learning_rate` and `turn`, `(num,)`; and `count`, `(1,)`, the steps to
    take.

    The program is that of the given objective, or one of the same structure
    that was traced before, which holds the values inside the `with` block.
    The optimiser starts anew.

    Args:
        objective: functional model, inputs in the order of `names`.
        names: of its inputs.
        turns: list of `Turn`.
        update: function variables -> `optimizers.Update`.
        scales: function variable -> factor of its rate.
        batch: what tells the shapes of a call, since a program is for one, and
            all else that a trace rests on.
    """
    groups = _groups(turns)
    factors = [[scales(v) for v in variables] for variables, _ in groups]
    given = structure(
        objective,
        list(names),
        [tuple(x) for x in turns],
        update,
        factors,
        batch,
    )

    def make():
        # XLA was measured: slower in convolutions and linear heads, and in
        # dense ones no faster than a fused Adam without it.
        return backend.Trainer(
            [
                (_step(objective, names, turn, groups, numbers), numbers)
                for turn, numbers in zip(turns, _numbers(turns, groups))
            ],
            [
                (variables, factor, update(variables))
                for (variables, _), factor in zip(groups, factors)
            ],
        )

    with _one_at_a_time:
        program, variables = _find(given, "training", make)
        program.compiled.reset()
        with _lent(program, variables):
            yield program.compiled.run


def _groups(turns):
    """Return (variables, turns) for all that are moved in the same turns.

    Each group has an optimiser of its own, so that weights rest wholly,
    moments and count of steps included, while it is not their turn.
    """
    found: dict[tuple, list] = {}
    known: dict[int, tuple] = {}
    for number, turn in enumerate(turns):
        for variable in turn.variables:
            known.setdefault(id(variable), (variable, []))[1].append(number)
    for variable, numbers in known.values():
        found.setdefault(tuple(numbers), []).append(variable)
    return [(variables, numbers) for numbers, variables in found.items()]


def _numbers(turns, groups):
    """Return, for each turn, the numbers of the groups that it moves."""
    return [
        [k for k, (_, own) in enumerate(groups) if number in own]
        for number in range(len(turns))
    ]


def _step(objective, names, turn, groups, numbers):
    """Return the function (data, step) -> loss, and its gradients.

    They are of the variables of the groups of these `numbers`, in order.
    """
    variables = [v for number in numbers for v in groups[number][0]]

    def value_and_slopes(given, step):
        images, labels = _batch(given, step, names)
        value, slopes = backend.value_and_gradients(
            lambda: _losses(objective, turn, images, labels), variables
        )
        if turn.combine is None:
            return value, slopes
        return sum(value), turn.combine(variables, slopes)

    return value_and_slopes


def _losses(objective, turn, images, labels):
    """Return the loss of a turn, or the list of them that it combines."""
    outputs = objective(images, training=True)
    # What a layer of lower precision gives is not summed in it.
    wide = keras.tree.map_structure(_as_float32, outputs)
    found = turn.loss(labels, wide)
    added = sum(objective.losses)
    if turn.combine is None:
        return found + added
    return [found[0] + added, *found[1:]]


def _batch(given, step, names):
    """Return the images and labels of one step."""
    taken, labels = (
        {
            name: backend.take_rows(table["values"], table["rows"][step])
            for name, table in given[group].items()
        }
        for group in ("inputs", "labels")
    )
    if "progress" in names:
        size = next(iter(taken.values())).shape[0]
        taken["progress"] = ops.full((size, 1), given["progress"][step])
    images = [taken[name] for name in names]
    lone = set(labels) == {"target"}
    return images, labels["target"] if lone else labels


def _as_float32(x):
    low = keras.backend.standardize_dtype(x.dtype) == "bfloat16"
    return ops.cast(x, "float32") if low else x


def forward(model, inputs):
    """Return the outputs of `model` for all rows of `inputs`, an array.

    In inference mode, `BATCH` rows at a time.

    Args:
        model: one output.
        inputs: `(n, ...)`, or a list of such arrays, one an input.
    """
    n = len(keras.tree.flatten(inputs)[0])
    rows = _full_batches(n)
    kinds = [(x.shape[1:], x.dtype.str) for x in keras.tree.flatten(inputs)]
    given = structure(model, kinds)
    found: Any = None
    with _one_at_a_time:
        program, variables = _find(given, "inference", lambda: model)
        with _lent(program, variables):
            for start, batch in zip(range(0, rows.size, BATCH), rows):
                part = program.compiled.predict_on_batch(_rows(inputs, batch))
                if found is None:
                    found = np.empty((rows.size, *part.shape[1:]), part.dtype)
                found[start : start + BATCH] = part
    return found[:n]


def _full_batches(n):
    """Return `n` rows in batches, the last one repeated up to a full batch."""
    padded = -(-n // BATCH) * BATCH
    # Batches have one shape, so no row depends on how many others there are.
    return np.minimum(np.arange(padded), n - 1).reshape(-1, BATCH)


def _rows(inputs, rows):
    return keras.tree.map_structure(lambda x: x[rows], inputs)


def _find(given, kind, make):
    """Return the `Program`, kept or made, and the variables of this model."""
    if given is None:
        return Program(make(), []), []
    key = kind, given.key
    if key not in _programs:
        _programs[key] = Program(make(), list(given.variables))
    _programs.move_to_end(key)
    if len(_programs) > KEPT:
        _programs.popitem(last=False)
    return _programs[key], given.variables


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
