"""Normalisation tuning: only gamma, beta and the head are trained.

Gamma and beta are the scale and shift of the source's normalisation layers;
kernels, biases and BatchNorm's statistics stay as the source has them. A
backbone with BatchNorm is therefore trained in inference mode, where dropout
is off too.

Row: M25 (article 003).
Source: Frankle, Schwab and Morcos 2021. https://arxiv.org/abs/2003.00152
"""

from keras import layers

from ktransfer.stages.weights import tuned_weights

NORMALISATIONS = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
)


def transfer(target, source, *, steps, seed, **training):
    return tuned_weights(
        target,
        source,
        ("gamma", "beta"),
        NORMALISATIONS,
        steps=steps,
        seed=seed,
        **training,
    )
