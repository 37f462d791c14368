"""Weight noise: the source's matrices are perturbed a little, then fine-tuned.

W_t starts at W_s + U(-strength / 2, strength / 2) std(W_s), each kernel of the
source's features with its own std; biases and normalisation stay as they are.
With a new head all is trained. The default strength, 0.15, is unverified.

Row: M8 (article 000, section 2.2.2).
Source: Wu et al. 2022, NoisyTune. https://arxiv.org/abs/2202.12024
"""

import numpy as np

from ktransfer.models.graph import leaves
from ktransfer.models.surgery import copy
from ktransfer.seeds import stream
from ktransfer.stages.heads import tuned


def transfer(target, source, *, steps, seed, strength=0.15, **training):
    start = _perturbed(source.model, strength, seed)
    return tuned(
        target, source._replace(model=start), steps=steps, seed=seed, **training
    )


def _perturbed(model, strength, seed):
    model = copy(model)
    if not strength:
        return model
    for layer in leaves(model):
        for variable in layer.trainable_weights:
            if len(variable.shape) > 1:
                own = stream(seed, "noise", layer.name, variable.name)
                uniform = np.random.default_rng(own).uniform(
                    -strength / 2, strength / 2, variable.shape
                )
                value = variable.numpy()
                variable.assign(value + uniform * value.std())
    return model
