"""Layer transfer: the source's lowest blocks are copied, the rest is fresh.

The first `num_blocks` blocks of the backbone hold the source's weights, those
above a fresh initialisation, and the head is new. With `freeze_copied` the
copied blocks stay as they are (AnB), without it they are tuned too (AnB+).
The controls are the same method: a source trained on the target itself gives
BnB and BnB+, one of random weights the random control. The default of
`num_blocks` is ours; the authors sweep it.

Row: M29 (article 003, section 2).
Source: Yosinski et al. 2014. https://arxiv.org/abs/1411.1792
"""

from ktransfer.engine.kinds import Whole
from ktransfer.errors import NotApplicable
from ktransfer.models.blocks import blocks
from ktransfer.models.surgery import copy_backbone, freeze, fresh
from ktransfer.stages.heads import fitted


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    num_blocks: Whole = 2,
    freeze_copied: bool = True,
    **training,
):
    backbone = copy_backbone(source.model)
    copied = list(blocks(backbone).values())
    initial = list(blocks(fresh(backbone, seed)).values())
    if not 0 <= num_blocks <= len(copied):
        raise NotApplicable(
            f"num_blocks is {num_blocks}; expected 0 to {len(copied)}, the "
            f"blocks of the source: {', '.join(blocks(backbone))}."
        )
    _set_weights(copied[num_blocks:], initial[num_blocks:])
    if freeze_copied:
        for block in copied[:num_blocks]:
            freeze(block)
    return fitted(target, backbone, steps=steps, seed=seed, **training)


def _set_weights(own, others):
    """Give the blocks `own` the weights of the blocks `others`."""
    for ours, theirs in zip(own, others):
        for layer, other in zip(ours, theirs):
            layer.set_weights(other.get_weights())
