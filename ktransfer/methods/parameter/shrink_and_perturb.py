"""Shrink and perturb: start at the source's weights, made smaller and noisy.

W = shrink W_s + perturb W_0 for every variable of the backbone, W_0 being a
fresh initialisation of the same network under the run's seed; then a new
head, and all of it is trained. BatchNorm's statistics are re-estimated on the
target's images unless one share is 1 and the other 0.

Row: M4 (article 000, section 2.1.1).
Source: Ash and Adams 2020. https://arxiv.org/abs/1910.08475
"""

from ktransfer.engine.kinds import NotNegative
from ktransfer.stages.heads import fitted
from ktransfer.stages.weights import mixed


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    shrink: NotNegative = 0.4,
    perturb: NotNegative = 0.1,
    **training,
):
    backbone = mixed(target, source, seed=seed, shares=(shrink, perturb))
    return fitted(target, backbone, steps=steps, seed=seed, **training)
