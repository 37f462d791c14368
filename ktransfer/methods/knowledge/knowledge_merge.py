"""Knowledge merge: two sources of one initialisation become one network.

W = operator(W_s, W_m), elementwise, W_s the source's and W_m the
intermediate's backbone, which was trained on a task between or is an earlier
checkpoint; then a new head, and all of it is trained. `operator`, with the
`share` s of the source (0.5 is ours):

    "mean"               s W_s + (1 - s) W_m
    "maximum_magnitude"  W_s where s |W_s| >= (1 - s) |W_m|, else W_m
    "geometric"          |W_s|^s |W_m|^(1 - s) with their sign; 0 where the
                         signs differ

The last two are ours. Share 1 is the source and share 0 the intermediate, as
they are; between them BatchNorm's statistics are re-estimated on the target's
images. Networks of independent initialisations do not merge this way, and
nothing here can tell.

Row: M13 (article 004, section 3.3).
Source: nearest in print, Wortsman et al. 2022. https://arxiv.org/abs/2203.05482
"""

from typing import Literal

import numpy as np

from ktransfer.engine.kinds import Share
from ktransfer.errors import unknown
from ktransfer.models.surgery import check_same_shapes, combine, copy_backbone
from ktransfer.stages.heads import fitted
from ktransfer.stages.weights import refresh_statistics


def transfer(
    target,
    source,
    intermediate,
    *,
    steps,
    seed,
    share: Share = 0.5,
    operator: Literal["mean", "maximum_magnitude", "geometric"] = "mean",
    **training,
):
    if operator not in _OPERATORS:
        raise unknown("operator", operator, _OPERATORS)
    backbone = copy_backbone(source.model)
    others = [v.numpy() for v in copy_backbone(intermediate.model).weights]
    check_same_shapes(backbone, others)
    if share == 0:
        combine(backbone, [others], [1])
    elif share != 1:
        combine(backbone, [_merged(backbone, others, operator, share)], [1])
        refresh_statistics(target, backbone)
    return fitted(target, backbone, steps=steps, seed=seed, **training)


def _merged(backbone, others, operator, share):
    """Return the weights between those of `backbone` and the `others`."""
    merge = _OPERATORS[operator]
    weights = [v.numpy() for v in backbone.weights]
    return [merge(a, b, share) for a, b in zip(weights, others)]


def _mean(first, second, share):
    return share * first + (1 - share) * second


def _maximum_magnitude(first, second, share):
    larger = share * np.abs(first) >= (1 - share) * np.abs(second)
    return np.where(larger, first, second)


def _geometric(first, second, share):
    size = np.abs(first) ** share * np.abs(second) ** (1 - share)
    agree = np.sign(first) == np.sign(second)
    return np.where(agree, np.sign(first) * size, 0)


_OPERATORS = {
    "mean": _mean,
    "maximum_magnitude": _maximum_magnitude,
    "geometric": _geometric,
}
