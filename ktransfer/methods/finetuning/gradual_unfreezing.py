"""Gradual unfreezing: train the head, then thaw one more block at each stage.

Stage k trains the head and the k blocks under it, from k = 0 to all of them;
what is still frozen keeps BatchNorm's statistics too. The stages share the
steps, and each starts from a fresh optimiser and an epoch order of its own.
`num_stages` None gives each block its stage; fewer thaw several blocks at
once, and 1 trains everything from the start, which is fine-tuning. The number
is ours; the authors' slanted triangular rate is left out.

Row: M25 (article 003).
Source: Howard and Ruder 2018, ULMFiT. https://arxiv.org/abs/1801.06146
"""

from ktransfer.engine.kinds import Count
from ktransfer.engine.training import fit
from ktransfer.errors import NotApplicable
from ktransfer.models.blocks import blocks
from ktransfer.models.surgery import classifier, copy_backbone, freeze, unfreeze
from ktransfer.seeds import stream


def transfer(
    target, source, *, steps, seed, num_stages: Count | None = None, **training
):
    backbone = copy_backbone(source.model)
    from_the_top = list(reversed(blocks(backbone).values()))
    depths = _depths(len(from_the_top), num_stages)
    model = classifier(backbone, target, seed=seed)
    freeze(backbone)
    for stage, depth in enumerate(depths):
        for block in from_the_top[:depth]:
            unfreeze(block)
        start, stop = (steps * k // len(depths) for k in (stage, stage + 1))
        fit(
            model,
            target.train,
            steps=stop - start,
            # One order for all stages would show each the same first images.
            seed=stream(seed, "stage", stage) if stage else seed,
            **training,
        )
    return model


def _depths(num_blocks, num_stages):
    """Return the number of thawed blocks of every stage."""
    most = num_blocks + 1
    num_stages = most if num_stages is None else num_stages
    if not 1 <= num_stages <= most:
        raise NotApplicable(
            f"num_stages is {num_stages}; expected 1 to {most}, one more than "
            "the source has blocks."
        )
    if num_stages == 1:
        return [num_blocks]
    return [k * num_blocks // (num_stages - 1) for k in range(num_stages)]
