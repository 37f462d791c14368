"""Surgical fine-tuning: one block of the source and the head are trained.

`block` names the block, or several as a tuple; all other layers stay as the
source has them, BatchNorm's statistics included. None is the last block, a
default of ours: which block is best depends on how the target differs, and it
must not be chosen on the test set. All blocks are fine-tuning, none, `()`,
the linear probe.

Row: M16 (article 001, section 3.1), M25 (article 003).
Source: Lee et al. 2023. https://arxiv.org/abs/2210.11466
"""

from ktransfer.engine.kinds import Layers
from ktransfer.errors import NotApplicable, unknown
from ktransfer.models.blocks import blocks
from ktransfer.models.surgery import copy_backbone, freeze, unfreeze
from ktransfer.stages.heads import fitted


def transfer(
    target, source, *, steps, seed, block: Layers | None = None, **training
):
    backbone = copy_backbone(source.model)
    thawed = _chosen(blocks(backbone), block)
    freeze(backbone)
    unfreeze(thawed)
    return fitted(target, backbone, steps=steps, seed=seed, **training)


def _chosen(grouped, block):
    """Return the layers of the blocks that `block` names."""
    if not grouped:
        raise NotApplicable(
            "the source's features have no weights; expected a block to train."
        )
    if block is None:
        block = list(grouped)[-1]
    names = [block] if isinstance(block, str) else block
    for name in names:
        if name not in grouped:
            raise unknown("block", name, grouped)
    return [layer for name in names for layer in grouped[name]]
