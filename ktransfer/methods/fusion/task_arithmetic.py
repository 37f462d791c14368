"""Task arithmetic: what each source learned since a common start, added up.

theta = theta_0 + strength x sum of (theta_i - theta_0) over the backbones;
the first source is the start theta_0, from which the others were trained on.
BatchNorm's statistics are re-estimated on the target's images, unless theta
is theta_0 or one theta_i itself; then a new head, and all of it is trained.

`strength` None takes, out of 0.25, 0.5, 0.75 and 1, the one whose features
best classify images held out of the target's own, by the nearest mean of a
class; the smallest of equals. The grid and this criterion are ours.

That the sources come from theta_0 cannot be read off them: only the
architecture is checked. Means of unrelated networks are worth nothing.

Row: M13 (article 004, section 3.3).
Source: Ilharco et al. 2023. https://arxiv.org/abs/2212.04089
"""

import numpy as np

from ktransfer.engine.kinds import NotNegative
from ktransfer.engine.prediction import predict
from ktransfer.errors import NotApplicable
from ktransfer.models.surgery import adapt_input, copy_backbone
from ktransfer.stages.heads import fitted, held_out
from ktransfer.stages.weights import merge

GRID = (0.25, 0.5, 0.75, 1.0)


def transfer(
    target,
    base,
    *sources,
    steps,
    seed,
    strength: NotNegative | None = None,
    **training,
):
    if not sources:
        raise NotApplicable(
            "only a base is given; expected a source trained on from it too."
        )
    backbone = copy_backbone(base.model)
    members = [copy_backbone(x.model) for x in (base, *sources)]
    if strength is None:
        strength = _chosen(target, backbone, members, seed)
    _add(target, backbone, members, strength)
    return fitted(target, backbone, steps=steps, seed=seed, **training)


def _add(target, backbone, members, strength):
    num_sources = len(members) - 1
    shares = [1 - num_sources * strength] + [strength] * num_sources
    merge(target, backbone, members, shares)


def _chosen(target, backbone, members, seed):
    """Return the strength of `GRID` with the best features for `target`."""
    task, validation = held_out(target, seed)
    adapted = adapt_input(backbone, target.image_shape)
    scores = []
    for strength in GRID:
        _add(task, backbone, members, strength)
        known, new = (
            predict(adapted, images).reshape(len(images), -1)
            for images in (task.train.x, validation.x)
        )
        guesses = _nearest_mean(known, task.train.y, new)
        scores.append(np.mean(guesses == validation.y))
    return GRID[int(np.argmax(scores))]


def _nearest_mean(known, labels, new):
    """Return, for rows of `new`, the label whose mean in `known` is nearest."""
    present = np.unique(labels)
    means = np.stack([known[labels == k].mean(axis=0) for k in present])
    # Squared distances, up to a term that all labels have in common.
    distances = (means**2).sum(axis=1) - 2 * new @ means.T
    return present[distances.argmin(axis=1)]
