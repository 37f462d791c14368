"""Fisher merging: sources averaged, each weight by how much it matters.

theta = (sum of F_i theta_i) / (sum of F_i) over the backbones, with F_i the
diagonal Fisher information of source i on `num_images` of its own training
images and at least `floor`. Labels are expected under the source's own
predictions, exactly and not by samples; those of the data play no part.
BatchNorm's statistics are re-estimated on the target's images; then a new
head, and all of it is trained. `floor` is that of WiSE-FT's code, `num_images`
ours. The sources should descend from one initialisation; only the
architecture is checked.

Row: M13 (article 004, section 3.3).
Source: Matena and Raffel 2022. https://arxiv.org/abs/2111.09832
"""

import numpy as np

from ktransfer.errors import NotApplicable
from ktransfer.measures.fisher import diagonal_fisher
from ktransfer.models.surgery import check_same_shapes, copy, copy_backbone, cut
from ktransfer.stages.heads import fitted
from ktransfer.stages.weights import refresh_statistics


def transfer(
    target, *sources, steps, seed, floor=1e-8, num_images=256, **training
):
    if not sources:
        raise NotApplicable("no source is given; expected at least one.")
    backbone = copy_backbone(sources[0].model)
    members, fishers = [], []
    for source in sources:
        model = copy(source.model)
        part = cut(model, "features")
        check_same_shapes(backbone, [v.numpy() for v in part.weights])
        members.append([v.numpy() for v in part.trainable_variables])
        fishers.append(
            diagonal_fisher(
                model,
                source.task.train.x,
                part.trainable_variables,
                num_images=num_images,
                seed=seed,
            )
        )
    merged = _weighted_mean(members, fishers, floor)
    for variable, value in zip(backbone.trainable_variables, merged):
        variable.assign(value)
    if len(sources) > 1:
        refresh_statistics(target, backbone)
    return fitted(target, backbone, steps=steps, seed=seed, **training)


def _weighted_mean(members, weights, floor):
    """Return the mean of each array over `members`, entry by entry.

    Args:
        members, weights: a list of arrays each; weights are at least `floor`.
    """
    merged = []
    for arrays, factors in zip(zip(*members), zip(*weights)):
        factors = np.maximum(np.stack(factors).astype("float64"), floor)
        merged.append((factors * np.stack(arrays)).sum(0) / factors.sum(0))
    return merged
