"""Discriminative learning rates: the lower a block, the slower it is trained.

The head has the full `learning_rate`, the block under it that rate divided by
`decay`, the next lower one that divided by `decay` again, and so on. The
optimiser's update is scaled, not the gradient, to which Adam is blind.
`decay` 1 is fine-tuning. BatchNorm's statistics know no rate: they are settled
as in every training.

Row: M25 (article 003).
Source: Howard and Ruder 2018, ULMFiT. https://arxiv.org/abs/1801.06146
"""

from ktransfer.engine.kinds import Positive, check
from ktransfer.engine.training import fit
from ktransfer.models.blocks import blocks
from ktransfer.models.surgery import classifier, copy_backbone


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    learning_rate: Positive = 1e-3,
    decay: Positive = 2.6,
    **training,
):
    check("Positive", decay=decay)
    backbone = copy_backbone(source.model)
    model = classifier(backbone, target, seed=seed)
    fit(
        model,
        target.train,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        rates=_rates(backbone, learning_rate, decay),
        **training,
    )
    return model


def _rates(backbone, rate, decay):
    """Return (block, its rate) from the top down, `rate` being the head's."""
    rates = []
    for block in reversed(blocks(backbone).values()):
        rate = rate / decay
        rates.append((block, rate))
    return rates
