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

import keras
from keras import layers

from ktransfer.errors import NotApplicable, unknown
from ktransfer.layers import InferenceMode
from ktransfer.seeds import stream
from ktransfer.surgery import (
    adapt_input,
    classifier,
    copy,
    copy_backbone,
    freeze,
    fresh,
    head_layer,
    inline,
)
from ktransfer.training import fit


def transfer(
    target,
    *sources,
    steps,
    seed,
    learning_rate=1e-3,
    units=64,
    strength=1.0,
    layer="features",
    **training,
):
    if not sources:
        raise NotApplicable("no source is given; expected at least one.")
    if layer not in ("features", "logits"):
        raise unknown("layer", layer, ("features", "logits"))
    # Cut after the fresh initialisation, whose streams are named by layer.
    network = fresh(sources[0].model, seed)
    model = classifier(copy_backbone(network), target, seed=seed)
    if strength:
        model = _widened(model, target, sources, units, strength, layer, seed)
    fit(
        # A graph of its own over the same layers: what `fit` does to the
        # inputs of a partly frozen one keeps it from being saved.
        inline(model) if strength else model,
        target.train,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        **training,
    )
    return model


def _widened(branch, target, sources, units, strength, layer, seed):
    """Return the sum of the logits of `branch` and of those of each source."""
    inputs = keras.Input(target.image_shape, dtype="uint8", name="images")
    terms = [branch(inputs)]
    for number, source in enumerate(sources, start=1):
        known = _knowledge(source, target, layer)
        x = InferenceMode(known, name=f"source_{number}")(inputs)
        if len(x.shape) > 2:
            x = layers.Flatten(name=f"flatten_{number}")(x)
        x = head_layer(units, f"project_{number}", seed, "relu")(x)
        if strength != 1:
            x = layers.Rescaling(strength, name=f"scale_{number}")(x)
        terms.append(_unbiased(target.num_classes, f"logits_{number}", seed)(x))
    outputs = layers.Add(name="sum")(terms)
    return keras.Model(inputs, outputs, name="knowledge_transfer_network")


def _knowledge(source, target, layer):
    """Return a frozen copy of the source, raw target images -> K_i(x)."""
    whole = layer == "logits"
    known = copy(source.model) if whole else copy_backbone(source.model)
    freeze(known)
    return adapt_input(known, target.image_shape)


def _unbiased(units, name, seed):
    start = keras.initializers.GlorotUniform(stream(seed, "head", name))
    return layers.Dense(
        units, use_bias=False, kernel_initializer=start, name=name
    )
