"""Subspace alignment (SA): the source's principal axes, turned to the target's.

phi is the source's backbone, frozen. The features of each domain are
standardised by their own mean and deviation, as in the authors' code, and have
the leading principal axes X_s and X_t `(d, k)`. Softmax regression, at its
minimum with `penalty` (ours) times ||kernel||^2, learns source features z X_s
X_s' X_t and serves on target features z X_t; `steps` go unused. k is
`num_components` (64 is ours), or less where a domain's features span fewer
dimensions. It is never chosen on target labels, of which none is read.

Row: M27 (article 003; article 004).
Source: Fernando et al. 2013. https://doi.org/10.1109/ICCV.2013.368
"""

import numpy as np

from ktransfer.engine.kinds import Count, Positive
from ktransfer.stages.alignment import linearly_aligned, num_kept


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    num_components: Count = 64,
    penalty: Positive = 1e-3,
):
    def align(ours, theirs):
        target_axes, source_axes = _axes([ours, theirs], num_components)
        return target_axes, source_axes @ source_axes.T @ target_axes

    return linearly_aligned(target, source, align, seed=seed, penalty=penalty)


def _axes(correlations, num_components):
    """Return the leading eigenvectors of each, equally many, as columns."""
    spectra = [np.linalg.eigh(correlation) for correlation in correlations]
    k = min(num_kept(values, num_components) for values, _ in spectra)
    return [vectors[:, : -k - 1 : -1] for _, vectors in spectra]
