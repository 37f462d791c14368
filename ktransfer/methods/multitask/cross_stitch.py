"""Cross-stitch: two towers that exchange a learned share after each block.

x_t' = a_tt x_t + a_ts x_s and x_s' = a_st x_t + a_ss x_s, the a learned, one
2x2 matrix a block. They start at `own_share` on the diagonal and 1 - own_share
beside it (0.9 and 0.1: unverified in the paper). `learned` False keeps them
there; an own_share of 1 then gives two single-task networks.

The paper has two labels an image; here every image passes both towers and the
head of its own task reads that task's tower, so the result holds both towers.
`from_source` starts both at the source. BatchNorm as in hard sharing.

Row: M24 (article 003).
Source: Misra et al. 2016. https://arxiv.org/abs/1604.03539
"""

import keras

from ktransfer.engine.losses import summed_cross_entropy
from ktransfer.engine.training import fit
from ktransfer.models.blocks import blocks
from ktransfer.models.layers import CrossStitch
from ktransfer.models.surgery import assign
from ktransfer.stages.heads import block_chain
from ktransfer.stages.streams import first_backbone, two_streams


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    own_share=0.9,
    learned=True,
    from_source=False,
    **training,
):
    tower = first_backbone(source, seed=seed, from_source=from_source)
    stitches = [
        CrossStitch(own_share, trainable=learned, name=f"{block}_stitch")
        for block in blocks(tower)
    ]
    towers = _stitched(tower, _renamed(tower), stitches)
    both = two_streams(target, source, *towers, seed=seed)
    model = both.get_layer("target_network")
    fit(
        both,
        {"target": target.train, "source": source.task.train},
        steps=steps,
        seed=seed,
        loss=summed_cross_entropy,
        served=(model, target.train.x),
        **training,
    )
    return model


def _stitched(first, second, stitches):
    """Return images -> features of `first`, and of `second`, both stitched."""
    images = keras.Input(first.input.shape[1:], dtype="uint8", name="images")
    x, y = images, images
    pieces = zip(block_chain(first), block_chain(second), strict=True)
    for number, (one, other) in enumerate(pieces):
        x, y = one(x), other(y)
        if number < len(stitches):
            x, y = stitches[number]([x, y])
    return [
        keras.Model(images, x, name="target_towers"),
        keras.Model(images, y, name="source_towers"),
    ]


def _renamed(tower):
    """Return a copy of `tower` whose layers are named `..._source`."""

    def rename(layer):
        name = f"{layer.name}_source"
        return type(layer).from_config({**layer.get_config(), "name": name})

    copied = keras.models.clone_model(tower, clone_function=rename)
    copied.name = f"{tower.name}_source"
    assign(copied, [variable.numpy() for variable in tower.variables])
    return copied
