"""Non-linear interpolation: a function of a mix of source and fresh weights.

W = f(alpha W_s + (1 - alpha) W_0), f elementwise on the whole mix; then a new
head, and all of it is trained. `function` names f, applied to each variable
of the backbone but BatchNorm's:

    "tanh"            tanh(W), which hardly changes small weights
    "scaled_tanh"     s tanh(W / s) with s = scale x std(W)
    "soft_threshold"  sign(W) max(|W| - threshold, 0)
    "keep_largest"    the `share` of W largest by magnitude, the rest 0
    "identity"        W

BatchNorm's statistics are re-estimated on the target's images after f.
`scale`, `threshold` and `share` are ours.

Row: M5 (article 000, sections 2.1.2, 3.1.2 and 4.1.2).
Source: nearest in print, Ash and Adams 2020. https://arxiv.org/abs/1910.08475
"""

from typing import Literal

import keras
import numpy as np

from ktransfer.engine.kinds import NotNegative, Positive, Share
from ktransfer.errors import unknown
from ktransfer.models.graph import leaves
from ktransfer.models.surgery import keep_largest
from ktransfer.stages.heads import fitted
from ktransfer.stages.weights import mixed, refresh_statistics


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    alpha: NotNegative = 0.5,
    function: Literal[
        "tanh", "scaled_tanh", "soft_threshold", "keep_largest", "identity"
    ] = "tanh",
    scale: Positive = 3.0,
    threshold: NotNegative = 0.01,
    share: Share = 0.5,
    **training,
):
    functions = _functions(scale, threshold, share)
    if function not in functions:
        raise unknown("function", function, functions)
    backbone = mixed(target, source, seed=seed, shares=(alpha, 1 - alpha))
    if function != "identity":
        _apply(functions[function], backbone)
        refresh_statistics(target, backbone)
    return fitted(target, backbone, steps=steps, seed=seed, **training)


def _functions(scale, threshold, share):
    """Return name -> function of weights, None for the identity."""
    return {
        "tanh": np.tanh,
        "scaled_tanh": lambda w: _scaled_tanh(w, scale),
        "soft_threshold": lambda w: w - np.clip(w, -threshold, threshold),
        "keep_largest": lambda w: keep_largest(w, share),
        "identity": None,
    }


def _scaled_tanh(weights, scale):
    """Return s tanh(w / s); equal weights have no spread and stay."""
    spread = scale * weights.std()
    return spread * np.tanh(weights / spread) if spread else weights


def _apply(function, backbone):
    for layer in leaves(backbone):
        if not isinstance(layer, keras.layers.BatchNormalization):
            for variable in layer.trainable_variables:
                variable.assign(function(variable.numpy()))
