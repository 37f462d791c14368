"""Mean and variance: fresh weights with the source's mean and variance.

Every variable of the source's features is drawn from N(mean, variance) of
that variable's own entries, so that only their scale is transferred; with a
new head all is trained. A BatchNorm variance is never below the source's
smallest.

Source: Raghu et al. 2019. https://arxiv.org/abs/1902.07208
"""

import numpy as np

from ktransfer.models.graph import leaves
from ktransfer.models.surgery import copy
from ktransfer.seeds import stream
from ktransfer.stages.heads import tuned


def transfer(target, source, *, steps, seed, **training):
    start = _redrawn(source.model, seed)
    return tuned(
        target, source._replace(model=start), steps=steps, seed=seed, **training
    )


def _redrawn(model, seed):
    model = copy(model)
    for layer in leaves(model):
        for variable in layer.weights:
            own = stream(seed, "noise", layer.name, variable.name)
            value = variable.numpy()
            drawn = np.random.default_rng(own).normal(
                value.mean(), value.std(), value.shape
            )
            if variable.name == "moving_variance":
                drawn = np.maximum(drawn, max(value.min(), 1e-6))
            variable.assign(drawn)
    return model
