"""Weight noise: all that trains is perturbed a little, and then fine-tuned.

W_t starts at W_s + U(-strength / 2, strength / 2) std(W_s), each kernel, bias,
gamma and beta of the source's features with its own std, over n - 1 as in the
authors' snippet, which goes over all parameters; a variable of one value has
none and stays, as do BatchNorm's statistics. With a new head all is trained.
Strength 0.15 and the snippet are the paper's as others quote it; unverified,
since its own text was not at hand.

Row: M8 (article 000, section 2.2.2).
Source: Wu et al. 2022, NoisyTune. https://arxiv.org/abs/2202.12024
"""

import numpy as np

from ktransfer.engine.kinds import NotNegative
from ktransfer.models.graph import leaves
from ktransfer.models.surgery import copy
from ktransfer.seeds import stream
from ktransfer.stages.heads import tuned


def transfer(
    target, source, *, steps, seed, strength: NotNegative = 0.15, **training
):
    start = _perturbed(source.model, strength, seed)
    return tuned(
        target, source._replace(model=start), steps=steps, seed=seed, **training
    )


def _perturbed(model, strength, seed):
    model = copy(model)
    if not strength:
        return model
    for layer in leaves(model):
        for number, variable in enumerate(layer.trainable_weights):
            value = variable.numpy()
            if value.size > 1:
                own = stream(seed, "noise", layer.name, number)
                uniform = np.random.default_rng(own).uniform(
                    -strength / 2, strength / 2, value.shape
                )
                variable.assign(value + uniform * value.std(ddof=1))
    return model
