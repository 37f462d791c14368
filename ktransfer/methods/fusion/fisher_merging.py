"""Fisher merging: sources averaged, each weight by how much it matters.

theta = (sum of G_i theta_i) / (sum of G_i) over the backbones. G_i is the
diagonal Fisher information F_i of source i on `num_images` of its own training
images, at least `floor`, divided by the norm ||F_i|| over all weights, so that
a source that is unsure of its task, and has large F_i, does not outweigh the
others. Labels are expected under the source's own predictions, exactly and not
by samples; those of the data play no part. BatchNorm's statistics are
re-estimated on the target's images; then a new head, and all of it is trained.

The norm and `floor` are the defaults of the authors' code (merging.py), which
floors the target's model alone; here none of the sources is the target's, and
all are floored. `num_images` is ours. The sources should descend from one
initialisation; only the architecture is checked.

Row: M13 (article 004, section 3.3).
Source: Matena and Raffel 2022. https://arxiv.org/abs/2111.09832
"""

import numpy as np

from ktransfer.engine.kinds import Count, Positive
from ktransfer.errors import NotApplicable
from ktransfer.measures.fisher import diagonal_fisher
from ktransfer.models.own import answering
from ktransfer.models.surgery import check_same_shapes, copy, copy_backbone, cut
from ktransfer.stages.heads import fitted
from ktransfer.stages.weights import refresh_statistics


def transfer(
    target,
    *sources,
    steps,
    seed,
    floor: Positive = 1e-6,
    num_images: Count = 256,
    **training,
):
    if not sources:
        raise NotApplicable("no source is given; expected at least one.")
    backbone = copy_backbone(sources[0].model)
    members, fishers = [], []
    for source in sources:
        model = copy(answering(source))
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


def _weighted_mean(members, fishers, floor):
    """Return the mean of each array over `members`, entry by entry.

    Args:
        members, fishers: a list of arrays each. A weight is a Fisher of at
            least `floor`, divided by the norm of its member's, if that has one.
    """
    norms = [np.sqrt(sum(np.sum(f**2) for f in fisher)) for fisher in fishers]
    scales = [1 / norm if norm else 1.0 for norm in norms]
    merged = []
    for arrays, parts in zip(zip(*members), zip(*fishers)):
        factors = [s * np.maximum(f, floor) for s, f in zip(scales, parts)]
        total = sum(f * a for f, a in zip(factors, arrays, strict=True))
        merged.append(total / sum(factors))
    return merged
