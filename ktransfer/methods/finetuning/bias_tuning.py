"""Bias tuning: only the biases of the source and the head are trained.

The biases are those of all layers and BatchNorm's beta; kernels, gamma and
BatchNorm's statistics stay as the source has them. A backbone with BatchNorm
is therefore trained in inference mode, where dropout is off too.

Row: M25 (article 003).
Source: Ben Zaken et al. 2022, BitFit. https://arxiv.org/abs/2106.10199
"""

from ktransfer.stages.weights import tuned_weights


def transfer(target, source, *, steps, seed, **training):
    return tuned_weights(
        target, source, ("bias", "beta"), steps=steps, seed=seed, **training
    )
