"""Training from scratch: the default backbone, fresh, on the target alone.

It has the input adapters and the head of the methods that it is compared
with, so that only the initial weights differ.

Row: M28 (article 003, section 1: zero-knowledge transfer).
Source: control of Yosinski et al. 2014. https://arxiv.org/abs/1411.1792
"""

from ktransfer.engine.training import fit
from ktransfer.models import backbones
from ktransfer.models.surgery import classifier


def transfer(target, *, steps, seed, **training):
    model = classifier(backbones.convnet(seed=seed), target, seed=seed)
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model
