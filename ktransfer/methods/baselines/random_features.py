"""Random features: the source's architecture with fresh weights, frozen.

Only the head is trained, as in feature extraction. What this control reaches
owes nothing to the source's training. BatchNorm that was never trained lets
features through at whatever scale they have, so that its statistics are those
of the target's images, unless `statistics` is "trained" or "frozen".

Source: control of Yosinski et al. 2014, section 4.3. https://arxiv.org/abs/1411.1792
"""

from ktransfer.engine.kinds import Count, Layer
from ktransfer.engine.training import fit
from ktransfer.models.surgery import classifier, copy_backbone, freeze, fresh
from ktransfer.stages.weights import refresh_statistics


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    layer: Layer = "features",
    hidden_units: Count | None = 512,
    **training,
):
    backbone = fresh(copy_backbone(source.model, layer=layer), seed)
    if training.get("statistics", "reestimated") == "reestimated":
        refresh_statistics(target, backbone)
    freeze(backbone)
    model = classifier(backbone, target, seed=seed, hidden_units=hidden_units)
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model
