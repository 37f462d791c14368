"""Correlation alignment (CORAL): source features with the target's covariance.

phi is the source's backbone, frozen, and z the features of a domain,
standardised by that domain's own mean and deviation; C is their covariance
plus `regularization` (the authors' 1) times the identity. Softmax regression,
at its minimum with `penalty` (ours) times ||kernel||^2, learns source features
z C_s^(-1/2) C_t^(1/2), whitened and then recoloured, and serves on target
features z; `steps` go unused. No label of the target is read.

Row: M27 (article 003; article 004).
Source: Sun, Feng and Saenko 2016. https://arxiv.org/abs/1511.05547
"""

import numpy as np

from ktransfer.engine.kinds import Positive, check
from ktransfer.stages.alignment import linearly_aligned


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    regularization: Positive = 1.0,
    penalty: Positive = 1e-3,
):
    check("Positive", regularization=regularization)

    def align(ours, theirs):
        whitening = _power(theirs, regularization, -0.5)
        return np.eye(len(ours)), whitening @ _power(ours, regularization, 0.5)

    return linearly_aligned(target, source, align, seed=seed, penalty=penalty)


def _power(correlation, regularization, power):
    """Return (correlation + regularization I)^power."""
    values, vectors = np.linalg.eigh(correlation)
    powers = (np.maximum(values, 0) + regularization) ** power
    return vectors * powers @ vectors.T
