"""Optimisers and schedules by name: how weights move, as pure functions.

An optimiser here is a function: variables -> `Update`, which holds the state
at step 0 and says what one step makes of state and weights. Nothing is
assigned; a backend carries both along, in place where that is faster.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from ktransfer.errors import unknown


class Update(NamedTuple):
    """How a group of weights moves.

    `start` holds the arrays of the state at step 0. `apply` is (state,
    gradients, values, rate, scales) -> (state, values), lists of arrays all;
    a weight moves by rate x its scale. `adam` holds the settings where it is
    Adam, which a backend may do in one pass; `optimizer` the Keras optimiser
    where it is one, built on the group's variables.
    """

    start: list
    apply: Callable
    adam: "AdamSettings | None" = None
    optimizer: Any = None


class AdamSettings(NamedTuple):
    """Keras's defaults of Adam: the decays of both moments, and epsilon."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7


ADAM = AdamSettings()


def adam(variables, settings=ADAM):
    """Return the `Update` of Adam, as Keras has it.

    Its state is the number of steps done, the moments and the velocities.
    Source: Kingma and Ba 2015, arXiv:1412.6980.
    """
    zeros = [np.zeros(variable.shape, "float32") for variable in variables]
    apply = functools.partial(_apply_adam, settings)
    return Update([np.zeros((), "int32"), *zeros, *zeros], apply, settings)


def _apply_adam(settings, state, gradients, values, rate, scales):
    step, slots = state[0] + 1, state[1:]
    moments, velocities = slots[: len(values)], slots[len(values) :]
    b1, b2, epsilon = settings
    moments = [m + (1 - b1) * (g - m) for m, g in zip(moments, gradients)]
    velocities = [
        v + (1 - b2) * (ops.square(g) - v)
        for v, g in zip(velocities, gradients)
    ]
    done = ops.cast(step, "float32")
    rate = rate * ops.sqrt(1 - b2**done) / (1 - b1**done)
    values = [
        x - rate * scale * m / (ops.sqrt(v) + epsilon)
        for x, scale, m, v in zip(values, scales, moments, velocities)
    ]
    return [step, *moments, *velocities], values


def sgd(variables, momentum=0.9):
    """Return the `Update` of gradient descent with momentum, as Keras has it.

    Its state is the velocities.
    Source: Sutskever et al. 2013, without Nesterov's look ahead.
    """
    zeros = [np.zeros(variable.shape, "float32") for variable in variables]
    return Update(zeros, functools.partial(_apply_sgd, momentum))


def _apply_sgd(momentum, state, gradients, values, rate, scales):
    moved = [
        v * momentum - g * (rate * scale)
        for v, g, scale in zip(state, gradients, scales)
    ]
    return moved, [x + v for x, v in zip(values, moved)]


def of_keras(build, variables):
    """Return the `Update` of a Keras optimiser.

    Args:
        build: class or function learning_rate -> fresh Keras optimiser.
        variables: Keras variables, which it is built on.
    """
    optimizer = build(1.0)
    optimizer.build(variables)
    start = [variable.numpy() for variable in optimizer.variables]
    apply = functools.partial(_apply_keras, optimizer)
    return Update(start, apply, None, optimizer)


def _apply_keras(optimizer, state, gradients, values, rate, scales):
    state = [
        rate if variable is optimizer.learning_rate else kept
        for variable, kept in zip(optimizer.variables, state)
    ]
    found, state = optimizer.stateless_apply(state, gradients, values)
    pairs = zip(values, found, scales)
    return state, [x if s == 1 else o + s * (x - o) for o, x, s in pairs]


OPTIMIZERS = {"adam": adam, "sgd": sgd}
# Factors of the learning rate at p, the share of the steps done. The last is
# that of Ganin and Lempitsky 2015, arXiv:1409.7495.
SCHEDULES = {
    "constant": np.ones_like,
    "cosine": lambda p: 0.5 * (1 + np.cos(math.pi * p)),
    "annealed": lambda p: (1 + 10 * p) ** -0.75,
}


def named(optimizer):
    """Return the function variables -> `Update` of a name.

    A class or function learning_rate -> fresh Keras optimiser is wrapped.

    Raises:
        KTransferError: `E_UNKNOWN`.
    """
    if not isinstance(optimizer, str):
        return functools.partial(of_keras, optimizer)
    if optimizer not in OPTIMIZERS:
        raise unknown("optimizer", optimizer, OPTIMIZERS)
    return OPTIMIZERS[optimizer]


def factor(schedule):
    """Return the function shares of the steps done -> factors of the rate.

    Raises:
        KTransferError: `E_UNKNOWN`.
    """
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule]
