"""Concatenation: the features of several frozen sources, side by side.

z = Dense(K)(concatenate(P_1 f_1(x), ..., P_n f_n(x))), with f_i the features
of source i and P_i = Dense(shared_units) and a LayerNorm, which bring sources
of unequal width and scale to one. The P_i and the head are trained, the
sources only if `tune_sources`. `shared_units` None leaves the P_i out; its
default is ours.

Row: M19 (article 001, sections 3.5 and 4.2).
Source: nearest in print, Evci et al. 2022. https://arxiv.org/abs/2201.03529
"""

import keras
from keras import layers

from ktransfer.engine.kinds import Count
from ktransfer.engine.training import fit
from ktransfer.models.surgery import head_layer
from ktransfer.stages.fusion import projected, read_sources


def transfer(
    target,
    *sources,
    steps,
    seed,
    shared_units: Count | None = 64,
    tune_sources: bool = False,
    **training,
):
    images, features = read_sources(target, sources, tune=tune_sources)
    if shared_units:
        features = projected(features, shared_units, seed)
    x = features[0]
    if len(features) > 1:
        x = layers.Concatenate(name="fused")(features)
    logits = head_layer(target.num_classes, "logits", seed)(x)
    model = keras.Model(images, logits, name="concatenation")
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model
