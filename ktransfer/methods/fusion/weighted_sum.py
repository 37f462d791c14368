"""Weighted sum: the features of several frozen sources, added up.

z = Dense(K)(g(sum of a_i P_i f_i(x))), with f_i the features of source i,
P_i = Dense(shared_units) and a LayerNorm, and a the softmax of learned
scalars, which start at a_i = 1/n. The result's layer `weights` holds them
(`model.get_layer("weights").shares()`). `weights` fixes a instead, and a
source of weight 0 is then left out. `activation` is g: "linear", "relu",
"gelu" or "tanh". The P_i, a and the head are trained, the sources only if
`tune_sources`; `shared_units` None leaves the P_i out. The defaults are ours.

Row: M20 (article 001, section 3.6).
Source: a as in Peters et al. 2018, ELMo. https://arxiv.org/abs/1802.05365
"""

from typing import Literal

import keras
from keras import layers

from ktransfer.engine.kinds import Count, Weights
from ktransfer.engine.training import fit
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.models.layers import SoftmaxSum
from ktransfer.models.surgery import head_layer
from ktransfer.stages.fusion import projected, read_sources


def transfer(
    target,
    *sources,
    steps,
    seed,
    shared_units: Count | None = 64,
    activation: Literal["linear", "relu", "gelu", "tanh"] = "relu",
    weights: Weights | None = None,
    tune_sources: bool = False,
    **training,
):
    sources, weights = _used(sources, weights)
    images, features = read_sources(target, sources, tune=tune_sources)
    if shared_units:
        features = projected(features, shared_units, seed)
    x = _added(features, weights)
    if activation != "linear":
        x = layers.Activation(activation, name="activation")(x)
    logits = head_layer(target.num_classes, "logits", seed)(x)
    model = keras.Model(images, logits, name="weighted_sum")
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model


def _added(features, weights):
    """Return the weighted sum of features, which have to be of one width."""
    widths = sorted({x.shape[-1] for x in features})
    if len(widths) > 1:
        raise NotApplicable(
            f"the sources have features of widths {widths}, which cannot be "
            "added; give shared_units."
        )
    if len(features) == 1:
        return features[0]
    return SoftmaxSum(weights, name="weights")(features)


def _used(sources, weights):
    """Return the sources whose fixed weight is not 0, and these weights."""
    if weights is None:
        return sources, None
    good = len(weights) == len(sources) and min(weights) >= 0 < sum(weights)
    if not good:
        raise KTransferError(
            "E_ARGUMENT",
            f"weights are {weights!r}; expected {len(sources)} numbers >= 0, "
            "one a source and not all 0.",
        )
    kept = [(s, w) for s, w in zip(sources, weights) if w]
    return [s for s, _ in kept], [w for _, w in kept]
