"""Mean and variance: fresh weights with the source's mean and variance.

Every trained variable of the source's features is drawn from N(mean, variance)
of that variable's own entries, so that only their scale is transferred; with a
new head all is trained. BatchNorm's moving statistics belong to the weights
that they were taken under, so they are those of the target's images.

Source: Raghu et al. 2019. https://arxiv.org/abs/1902.07208
"""

import numpy as np

from ktransfer.models.graph import leaves
from ktransfer.models.surgery import copy_backbone
from ktransfer.seeds import stream
from ktransfer.stages.heads import fitted
from ktransfer.stages.weights import refresh_statistics


def transfer(target, source, *, steps, seed, **training):
    backbone = copy_backbone(source.model)
    _redraw(backbone, seed)
    refresh_statistics(target, backbone)
    return fitted(target, backbone, steps=steps, seed=seed, **training)


def _redraw(model, seed):
    for layer in leaves(model):
        for variable in layer.trainable_weights:
            own = stream(seed, "noise", layer.name, variable.name)
            value = variable.numpy()
            drawn = np.random.default_rng(own).normal(
                value.mean(), value.std(), value.shape
            )
            variable.assign(drawn)
