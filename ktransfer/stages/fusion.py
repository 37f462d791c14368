"""Several models side by side, their features or their beliefs."""

import keras
import numpy as np
from keras import layers, ops

from ktransfer.errors import NotApplicable
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import (
    adapt_input,
    copy_backbone,
    freeze,
    head_layer,
)


def require_sources(sources):
    """Refuse, with `NotApplicable`, an empty list of sources."""
    if not sources:
        raise NotApplicable("no source is given; expected at least one.")


def read_sources(target, sources, *, tune=False, layer="features"):
    """Return symbolic images of `target`, and each source's features of them.

    Each source is a copy named `source_1`, ... behind its own input adapter,
    frozen unless `tune`; its features are flattened, `(batch, width)`.

    Raises:
        NotApplicable: there is no source.
    """
    require_sources(sources)
    inputs = keras.Input(target.image_shape, dtype="uint8", name="images")
    features = []
    for number, source in enumerate(sources, start=1):
        backbone = copy_backbone(source.model, f"source_{number}", layer)
        x = _reader(backbone, target.image_shape, tune)(inputs)
        if len(x.shape) > 2:
            x = layers.Flatten(name=f"flatten_{number}")(x)
        features.append(x)
    return inputs, features


def _reader(backbone, image_shape, tune):
    """Return `backbone` behind an adapter of its own, frozen unless `tune`."""
    if tune:
        return adapt_input(backbone, image_shape)
    freeze(backbone)
    reader = adapt_input(backbone, image_shape)
    # A source with dropout is read as it serves.
    return InferenceMode(reader, name=backbone.name)


def projected(features, units, seed):
    """Return each of the `features` behind a Dense(units) and a LayerNorm."""
    return [
        layers.LayerNormalization(name=f"norm_{number}")(
            head_layer(units, f"project_{number}", seed)(x)
        )
        for number, x in enumerate(features, start=1)
    ]


def mixture(models, shares, temperature=1.0):
    """Return raw images -> T log of the mean of softmax(z_i / T).

    As logits at temperature T they are the models' mean belief. A model of
    share 0 is left out, a lone one is returned as it is.

    Args:
        models: with names of their own, from images of one shape to logits.
        shares: numbers >= 0 that sum to 1, one a model.
        temperature: T.
    """
    used = [(s, m) for s, m in zip(shares, models, strict=True) if s > 0]
    if len(used) == 1:
        return used[0][1]
    shape = models[0].input.shape[1:]
    inputs = keras.Input(shape, dtype="uint8", name="images")
    terms = [
        ops.log_softmax(model(inputs) / temperature) + float(np.log(share))
        for share, model in used
    ]
    mixed = temperature * ops.logsumexp(ops.stack(terms), axis=0)
    return keras.Model(inputs, mixed, name="mixture")
