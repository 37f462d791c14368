"""Feature standardization: each domain by its own mean and deviation, no more.

phi is the source's backbone, frozen, and z the features of a domain, less
their mean and by their deviation over that domain's images. Softmax
regression, at its minimum with `penalty` times ||kernel||^2, learns source
features z and serves on target features z; `steps` go unused. It is the
control of correlation and subspace alignment (ours): they standardise so too,
and what they gain beyond it is owed to their alignment. No label of the target
is read.

Row: M27 (article 003; article 004).
Source: control of Sun, Feng and Saenko 2016. https://arxiv.org/abs/1511.05547
"""

import numpy as np

from ktransfer.engine.kinds import Positive
from ktransfer.stages.alignment import linearly_aligned


def transfer(target, source, *, steps, seed, penalty: Positive = 1e-3):
    def align(ours, theirs):
        return np.eye(len(ours)), np.eye(len(theirs))

    return linearly_aligned(target, source, align, seed=seed, penalty=penalty)
