"""Low-rank adaptation (LoRA): frozen kernels, each with a trained thin update.

W = W_s + (alpha / rank) A B for every kernel among `targets`: names of layers
or blocks of the source's features. None is, as in the paper, the kernels of
query and value of all `MultiHeadAttention` and nothing else; in features
without attention it is all dense layers and convolutions (ours). A `(inputs,
rank)` or `(height, width, channels, rank)` is drawn (uniformly within 1 /
sqrt(fan in), the choice of the peft library, whose `alpha` the default is), B
`(rank, outputs)` starts at 0; both and a new head are trained. W_s, every bias
and all else of the source stay as they are. What is returned are plain layers
with the updates merged into their kernels.

Row: M25 (article 003).
Source: Hu et al. 2022. https://arxiv.org/abs/2106.09685
"""

import keras
from keras import layers

from ktransfer.engine.kinds import Count, Layers, NotNegative
from ktransfer.engine.training import fit
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.models.blocks import select
from ktransfer.models.layers import LowRank
from ktransfer.models.surgery import classifier, copy_backbone, freeze, inline
from ktransfer.seeds import stream

KINDS = (layers.MultiHeadAttention, layers.Dense, layers.Conv2D)


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    rank: Count = 8,
    alpha: NotNegative = 8.0,
    targets: Layers | None = None,
    **training,
):
    if rank != int(rank) or rank < 1:
        raise KTransferError(
            "E_ARGUMENT",
            f"rank is {rank!r}; expected a whole number of at least 1.",
        )
    backbone = copy_backbone(source.model)
    chosen = _chosen(backbone, targets)
    freeze(backbone)
    model = classifier(backbone, target, seed=seed)

    def adapted(layer):
        if layer not in chosen:
            return layer
        own = stream(seed, "init", layer.name, "low_rank")
        return LowRank(layer, rank, alpha, own, name=layer.name)

    tuned = keras.models.clone_model(inline(model), clone_function=adapted)
    fit(tuned, target.train, steps=steps, seed=seed, **training)
    for layer in tuned.layers:
        if isinstance(layer, LowRank):
            layer.merge()
    return model


def _chosen(backbone, names):
    """Return the layers that can be adapted among those named, or by None."""
    if names is None:
        attention = [x for x in backbone.layers if isinstance(x, KINDS[0])]
        groups = [attention or backbone.layers]
    else:
        names = [names] if isinstance(names, str) else names
        groups = [select(backbone, name) for name in names]
    groups = [[x for x in group if isinstance(x, KINDS)] for group in groups]
    if not groups or not all(groups):
        raise NotApplicable(
            f"a target of {names} holds no attention, dense layer or "
            f"convolution of the source {backbone.name!r}; expected at least "
            "one in each."
        )
    return [layer for group in groups for layer in group]
