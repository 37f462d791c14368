"""Cross-stitch: two towers that exchange a learned share after each block.

x_t' = a_tt x_t + a_ts x_s and x_s' = a_st x_t + a_ss x_s, the a learned, one
2x2 matrix for each channel of a block. They start at `own_share` on the
diagonal and 1 - own_share beside it. `learned` False keeps them there; an
own_share of 1 then gives two single-task networks.

A matrix a channel, .9 and .1 at the start and a rate for the stitches of 100
times the other are those of Vandenhende's implementation on NYUD (trained by
SGD, since Adam "seems to fail"); the paper's own, as remembered 100 to 1,000
times, were not seen (unverified). `stitch_learning_rate` None is the rate of
all else: at 100 times of it, by Adam or SGD, the shares were beyond +-1 after
100 steps from letters to digits, and 7 to 12 points of accuracy were lost.

The paper has two labels an image; here every image passes both towers and the
head of its own task reads that task's tower, so the result holds both towers.
`from_source` starts both at the source. BatchNorm as in hard sharing.

Row: M24 (article 003).
Source: Misra et al. 2016. https://arxiv.org/abs/1604.03539
"""

import keras
from keras import layers

from ktransfer.engine.kinds import Positive, Share
from ktransfer.engine.losses import summed_cross_entropy
from ktransfer.engine.training import fit
from ktransfer.models.blocks import blocks
from ktransfer.models.graph import leaves
from ktransfer.stages.heads import block_chain, own_rate
from ktransfer.stages.streams import first_backbone, renamed, two_streams

_TOWERS = ("target", "source")


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    own_share: Share = 0.9,
    learned: bool = True,
    stitch_learning_rate: Positive | None = None,
    from_source: bool = False,
    **training,
):
    tower = first_backbone(source, seed=seed, from_source=from_source)
    towers = _stitched([tower, renamed(tower)], own_share, learned)
    both = two_streams(target, source, *towers, seed=seed)
    stitches = [x for x in leaves(both) if "_stitch_" in x.name]
    model = both.get_layer("target_network")
    fit(
        both,
        {"target": target.train, "source": source.task.train},
        steps=steps,
        seed=seed,
        loss=summed_cross_entropy,
        rates=own_rate(stitch_learning_rate, *stitches),
        served=(model, target.train.x),
        **training,
    )
    return model


def _stitched(towers, own_share, learned):
    """Return images -> features of either tower, both stitched."""
    images = keras.Input(towers[0].input.shape[1:], dtype="uint8")
    features = [images, images]
    names = list(blocks(towers[0]))
    for number, pieces in enumerate(zip(*map(block_chain, towers))):
        features = [piece(x) for piece, x in zip(pieces, features)]
        if number < len(names):
            stitch = f"{names[number]}_stitch"
            features = [
                _mixed(features, tower, own_share, learned, stitch)
                for tower in _TOWERS
            ]
    return [
        keras.Model(images, x, name=f"{tower}_towers")
        for tower, x in zip(_TOWERS, features)
    ]


def _mixed(features, own, own_share, learned, stitch):
    """Return the mixture that the tower `own` goes on with."""
    flat = len(features[0].shape) == 2
    terms = []
    for tower, x in zip(_TOWERS, features, strict=True):
        name = f"{stitch}_{own}_{tower}"
        wide = layers.Reshape((1, 1, -1), name=f"{name}_wide")(x) if flat else x
        share = own_share if tower == own else 1 - own_share
        start = keras.initializers.Constant(share)
        # A 1x1 convolution of each channel by itself: one factor a channel.
        scale = layers.DepthwiseConv2D(
            1, use_bias=False, depthwise_initializer=start, name=name
        )
        scale.trainable = learned
        terms.append(scale(wide))
    mixed = layers.Add(name=f"{stitch}_{own}")(terms)
    return layers.Flatten(name=f"{stitch}_{own}_flat")(mixed) if flat else mixed
