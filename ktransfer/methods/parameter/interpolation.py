"""Interpolation: start between the source's weights and fresh ones.

W = alpha W_s + (1 - alpha) W_0 for every variable of the backbone, W_0 being
a fresh initialisation of the same network under the run's seed; then a new
head, and all of it is trained. Between the ends BatchNorm's statistics are
re-estimated on the target's images. alpha 1 is fine-tuning, alpha 0 the
structure alone.

Row: M4 (article 000, sections 2.1.1, 3.1.1 and 4.1.1).
Source: nearest in print, Ash and Adams 2020. https://arxiv.org/abs/1910.08475
"""

from ktransfer.engine.kinds import NotNegative
from ktransfer.stages.heads import fitted
from ktransfer.stages.weights import mixed


def transfer(
    target, source, *, steps, seed, alpha: NotNegative = 0.5, **training
):
    backbone = mixed(target, source, seed=seed, shares=(alpha, 1 - alpha))
    return fitted(target, backbone, steps=steps, seed=seed, **training)
