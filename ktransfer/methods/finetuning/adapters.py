"""Adapters: small residual bottlenecks between the source's frozen blocks.

Each block's output h becomes h + W_up gelu(W_down h + b_down) + b_up, with
`units` values between W_down and W_up; on a map both are 1x1 convolutions. The
kernels start at a standard deviation of `initial_deviation`, the biases at 0,
so that the network starts near the source. Adapters and a new head are
trained, 2 C units + C + units parameters after a block of C channels; the
blocks stay as they are. The authors' rate is 3e-4. For convolutions: Rebuffi
et al. 2017, arXiv:1705.08045.

Row: M25 (article 003).
Source: Houlsby et al. 2019. https://arxiv.org/abs/1902.00751
"""

import keras
from keras import layers

from ktransfer.engine.kinds import Count, NotNegative
from ktransfer.models.blocks import blocks
from ktransfer.models.surgery import copy_backbone, freeze, inline
from ktransfer.seeds import stream
from ktransfer.stages.heads import block_chain, fitted


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    units: Count = 64,
    initial_deviation: NotNegative = 1e-3,
    **training,
):
    backbone = copy_backbone(source.model)
    freeze(backbone)
    adapted = _adapted(backbone, units, initial_deviation, seed)
    return fitted(target, adapted, steps=steps, seed=seed, **training)


def _adapted(backbone, units, deviation, seed):
    """Return `backbone`, whose layers it shares, with adapters after blocks."""
    names = [*blocks(backbone)]
    images = keras.Input(backbone.input.shape[1:], dtype="uint8", name="images")
    x = images
    for number, piece in enumerate(block_chain(backbone)):
        x = piece(x)
        if number < len(names):
            x = _residual(x, f"{names[number]}_adapter", units, deviation, seed)
    return inline(keras.Model(images, x, name=backbone.name))


def _residual(x, name, units, deviation, seed):
    # Dense acts on the last axis: on a map it is a 1x1 convolution.
    down, up = (
        layers.Dense(
            width,
            activation=activation,
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=deviation, seed=stream(seed, "init", name, part)
            ),
            name=f"{name}_{part}",
        )
        for part, width, activation in (
            ("down", units, "gelu"),
            ("up", x.shape[-1], None),
        )
    )
    return layers.Add(name=name)([x, up(down(x))])
