"""Optimisers and schedules by name, and what the suite adds to Keras's.

Whatever optimiser it is, `fit` sets its `learning_rate` at every step.
"""

import functools
import math

import keras
import numpy as np
from keras import ops

from ktransfer.engine import backend
from ktransfer.errors import unknown


class Adam(keras.optimizers.Adam):
    """Keras's Adam, whose update is one pass over the weights.

    In a dense head the passes of the original take a third of a step.
    """

    def update_step(self, gradient, variable, learning_rate):
        if self.amsgrad:
            super().update_step(gradient, variable, learning_rate)
            return
        place = self._get_variable_index(variable)
        backend.apply_adam(
            variable,
            self._momentums[place],
            self._velocities[place],
            gradient,
            step=self.iterations + 1,
            learning_rate=learning_rate,
            decays=(self.beta_1, self.beta_2),
            epsilon=self.epsilon,
        )


OPTIMIZERS = {
    "adam": Adam,
    "sgd": functools.partial(keras.optimizers.SGD, momentum=0.9),
}
# Factors of the learning rate at p, the share of the steps done. The last is
# that of Ganin and Lempitsky 2015, arXiv:1409.7495.
SCHEDULES = {
    "constant": np.ones_like,
    "cosine": lambda p: 0.5 * (1 + np.cos(math.pi * p)),
    "annealed": lambda p: (1 + 10 * p) ** -0.75,
}


def named(optimizer):
    """Return the function learning_rate -> optimiser of a name.

    What is no name is returned as it is.

    Raises:
        KTransferError: `E_UNKNOWN`.
    """
    if not isinstance(optimizer, str):
        return optimizer
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


def scaled(optimizer, variables, scales):
    """Return `optimizer`, whose update of each variable is scaled.

    Scaling gradients would do nothing under Adam.
    """
    if all(scale == 1 for scale in scales):
        return optimizer
    apply = optimizer.apply

    def scaled_apply(gradients, trainable_variables=None):
        own = [
            (variable, ops.copy(variable), scale)
            for variable, scale in zip(variables, scales, strict=True)
            if scale != 1
        ]
        apply(gradients, trainable_variables)
        for variable, old, scale in own:
            variable.assign(old + scale * (variable - old))

    optimizer.apply = scaled_apply
    return optimizer


class InTurns(keras.optimizers.Optimizer):
    """One optimiser for the `heads` and one for all else; one may rest.

    Args:
        optimizer: function learning_rate -> optimiser, called for both.
        heads: the variables of the heads.
        turn: function () -> 1 if all else rests, 2 if the heads do.
        clock: integer variable that counts the steps.
        learning_rate: of both.
    """

    def __init__(self, optimizer, heads, turn, clock, learning_rate):
        super().__init__(learning_rate)
        self._heads, self._turn, self._clock = heads, turn, clock
        self._both = [optimizer(lambda: self.learning_rate) for _ in range(2)]

    def build(self, variables):
        super().build(variables)
        theirs = {id(variable) for variable in self._heads}
        own = [v for v in variables if id(v) not in theirs]
        self._parts = list(zip(self._both, (own, self._heads), (1, 2)))
        for part, group, _ in self._parts:
            part.build(group)

    @property
    def variables(self):
        # Not what the base class finds, which holds the heads themselves.
        inner = [v for part in self._both for v in part.variables]
        return [self.iterations, self.learning_rate, *inner]

    def apply(self, gradients, trainable_variables=None):
        slopes = {id(v): g for v, g in zip(trainable_variables, gradients)}
        for part, group, rest in self._parts:
            given = [slopes[id(v)] for v in group]
            update = functools.partial(part.apply, given, group)
            ops.cond(self._turn() != rest, update, lambda: None)
        self._clock.assign_add(1)
