"""TIES merging: task vectors trimmed, their signs elected, then averaged.

The first source is the common start theta_0 of the others. Of each task
vector theta_i - theta_0, taken as a whole, the `density` largest entries by
magnitude are kept; each entry's sign is that of the sum over the sources; the
entries of that sign are averaged, the others and the zeros left out. Then
theta = theta_0 + strength x that mean over the backbone, BatchNorm's
statistics are re-estimated on the target's images, and under a new head all of
it is trained. `density` is that of the authors' commands (topk20); they choose
`strength` between 0.8 and 2.5 on validation data, and 1 is ours.

Row: M13 (article 004, section 3.3).
Source: Yadav et al. 2023, TIES. https://arxiv.org/abs/2306.01708
"""

import numpy as np

from ktransfer.engine.kinds import NotNegative, Share
from ktransfer.errors import NotApplicable
from ktransfer.models.surgery import (
    check_same_shapes,
    copy_backbone,
    keep_largest,
)
from ktransfer.stages.heads import fitted
from ktransfer.stages.weights import refresh_statistics


def transfer(
    target,
    base,
    *sources,
    steps,
    seed,
    density: Share = 0.2,
    strength: NotNegative = 1.0,
    **training,
):
    if not sources:
        raise NotApplicable(
            "only a base is given; expected a source trained on from it too."
        )
    backbone = copy_backbone(base.model)
    start = _vector(backbone)
    changes = [_same_shaped(source, backbone) - start for source in sources]
    trimmed = [keep_largest(change, density) for change in changes]
    if strength:
        _assign(backbone, start + strength * _elected_mean(trimmed))
        refresh_statistics(target, backbone)
    return fitted(target, backbone, steps=steps, seed=seed, **training)


def _same_shaped(source, backbone):
    """Return the weights of a source as one vector, if it fits `backbone`."""
    member = copy_backbone(source.model)
    check_same_shapes(backbone, [v.numpy() for v in member.weights])
    return _vector(member)


def _elected_mean(vectors):
    """Return the mean of the entries that have the sign of their sum."""
    vectors = np.stack(vectors)
    signs = np.sign(vectors.sum(axis=0))
    agree = (np.sign(vectors) == signs) & (vectors != 0)
    total = np.where(agree, vectors, 0).sum(axis=0)
    return total / np.maximum(agree.sum(axis=0), 1)


def _vector(model):
    parts = [v.numpy().ravel() for v in model.trainable_variables]
    return np.concatenate(parts).astype("float64")


def _assign(model, vector):
    start = 0
    for variable in model.trainable_variables:
        stop = start + int(np.prod(variable.shape))
        variable.assign(vector[start:stop].reshape(variable.shape))
        start = stop
