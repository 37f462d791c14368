"""Hypercolumn: the source's depths, pooled and joined, under a linear head.

z = Dense(K)([n(f_1(x)); ...; n(f_L(x))]), f_l the frozen map at the end of
block l, averaged over its positions, and n the normalisation of each image's
values to mean 0 and variance 1, without which the deepest or the largest map
would drown the others. n is LayerNorm without gain and shift: the Dense layer
holds both. `blocks` names the blocks or layers that are tapped, None all of
them (ours). `strength` and `solver` are those of the linear probe.

"adam" is the default for equal numbers of steps, and far from the minimum here,
since normalised values are small: from CIFAR-10 to 100 labelled digits of
MNIST, 600 steps at 1e-3 end at .535 where the minimum (strength 1e-3) is .195,
and at .74 of test accuracy where "direct", or a rate of 1e-2, has .80.

Row: M17 (article 001, section 3.1).
Source: Hariharan et al. 2015. https://arxiv.org/abs/1411.5752
"""

from typing import Literal

import keras
from keras import layers

from ktransfer.engine.kinds import Layers, NotNegative
from ktransfer.models import surgery
from ktransfer.models.blocks import blocks as blocks_of
from ktransfer.stages.heads import linear_head


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    blocks: Layers | None = None,
    strength: NotNegative = 0.0,
    solver: Literal["adam", "direct"] = "adam",
    **training,
):
    backbone = surgery.copy_backbone(source.model)
    names = [blocks] if isinstance(blocks, str) else blocks
    return linear_head(
        target,
        _column(backbone, names or list(blocks_of(backbone))),
        solver=solver,
        strength=strength,
        steps=steps,
        seed=seed,
        **training,
    )


def _column(backbone, names):
    """Return images -> the normalised means of the taps `names`, joined."""
    tapped = surgery.inline(backbone, tap=names)
    parts = []
    for name, x in tapped.output.items():
        if len(x.shape) == 4:
            x = layers.GlobalAveragePooling2D(name=f"{name}_mean")(x)
        normalise = layers.LayerNormalization(
            center=False, scale=False, name=f"{name}_normalised"
        )
        parts.append(normalise(x))
    if len(parts) > 1:
        parts = [layers.Concatenate(name="column")(parts)]
    return keras.Model(tapped.input, parts[0], name="hypercolumn")
