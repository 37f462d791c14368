"""A new convolution on the last feature map of the source, which is frozen.

z = Dense(K)(mean over positions of relu(Conv2D(filters, kernel_size)(m(x)))),
m the source up to its last map `(height, width, channels)`; the convolution
keeps the size of the map. `filters` None takes as many as the map has
channels. The defaults and the ReLU are ours.

Row: M16 (article 001, section 3.1).
Source: frozen layers as in Yosinski et al. 2014. https://arxiv.org/abs/1411.1792
"""

import keras
from keras import layers

from ktransfer.engine.kinds import Count
from ktransfer.engine.training import fit
from ktransfer.errors import NotApplicable
from ktransfer.models.graph import node_of
from ktransfer.models.surgery import adapt_input, copy, cut, freeze, head_layer
from ktransfer.seeds import stream


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    filters: Count | None = None,
    kernel_size: Count = 3,
    **training,
):
    maps = copy(_up_to_the_last_map(source.model), name="backbone")
    freeze(maps)
    maps = adapt_input(maps, target.image_shape)
    x = _convolved(maps.output, filters, kernel_size, seed)
    x = layers.GlobalAveragePooling2D(name="new_pool")(x)
    logits = head_layer(target.num_classes, "logits", seed)(x)
    model = keras.Model(maps.input, logits, name="convolution_layers")
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model


def _convolved(x, filters, kernel_size, seed):
    """Return the new convolution of a feature map."""
    start = keras.initializers.GlorotUniform(stream(seed, "head", "new_conv"))
    return layers.Conv2D(
        filters or x.shape[-1],
        kernel_size,
        padding="same",
        activation="relu",
        kernel_initializer=start,
        name="new_conv",
    )(x)


def _up_to_the_last_map(model):
    """Return `model` up to the last 4-D tensor that a weight has touched."""
    backbone = cut(model, "features")
    pending = [backbone.output]
    while pending:
        tensor = pending.pop(0)
        maps = keras.Model(backbone.input, tensor)
        if len(tensor.shape) == 4 and maps.weights:
            return maps
        pending += node_of(tensor).input_tensors
    raise NotApplicable(
        f"the source {model.name!r} has no feature map; expected convolutions."
    )
