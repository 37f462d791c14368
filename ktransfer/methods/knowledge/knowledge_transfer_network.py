"""Knowledge transfer network: a fresh branch reads what frozen sources know.

z = h([g(x); strength x P_1 K_1(x); ...; strength x P_n K_n(x)]): g is the
architecture of the first source with fresh weights, K_i a frozen copy of
source i up to `layer` ("features", or "logits" with its head), P_i a
Dense(units, relu) on it, and h a sum of one Dense for each branch, one bias in
all. g, P_i and h are trained. At strength 0 the sources are left out.
`units`, `strength` and the activation are ours.

Row: M9 (articles 000, 2.3 and 3.3; 003, 2 and 4), M10 (article 000, 2.3).
Source: Rusu et al. 2016, lateral connections. https://arxiv.org/abs/1606.04671
"""

from typing import Literal

import keras
from keras import layers

from ktransfer.engine.kinds import Count, NotNegative
from ktransfer.engine.training import fit
from ktransfer.errors import unknown
from ktransfer.models.surgery import (
    classifier,
    copy_backbone,
    fresh,
    head_layer,
)
from ktransfer.seeds import stream
from ktransfer.stages.fusion import read_sources, require_sources


def transfer(
    target,
    *sources,
    steps,
    seed,
    units: Count = 64,
    strength: NotNegative = 1.0,
    layer: Literal["features", "logits"] = "features",
    **training,
):
    require_sources(sources)
    if layer not in ("features", "logits"):
        raise unknown("layer", layer, ("features", "logits"))
    # Cut after the fresh initialisation, whose streams are named by layer.
    network = fresh(sources[0].model, seed)
    model = classifier(copy_backbone(network), target, seed=seed)
    if strength:
        model = _widened(model, target, sources, units, strength, layer, seed)
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model


def _widened(branch, target, sources, units, strength, layer, seed):
    """Return the sum of the logits of `branch` and of those of each source."""
    inputs, known = read_sources(target, sources, layer=layer)
    terms = [branch(inputs)]
    for number, x in enumerate(known, start=1):
        x = head_layer(units, f"project_{number}", seed, "relu")(x)
        if strength != 1:
            x = layers.Rescaling(strength, name=f"scale_{number}")(x)
        terms.append(_unbiased(target.num_classes, f"logits_{number}", seed)(x))
    outputs = layers.Add(name="sum")(terms)
    return keras.Model(inputs, outputs, name="knowledge_transfer_network")


def _unbiased(units, name, seed):
    start = keras.initializers.GlorotUniform(stream(seed, "head", name))
    return layers.Dense(
        units, use_bias=False, kernel_initializer=start, name=name
    )
