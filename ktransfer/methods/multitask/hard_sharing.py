"""Hard sharing: source and target are learned together on one backbone.

L = target_weight CE(target) + source_weight CE(source), one head a task. Each
step holds a full batch of either task as a stream of its own, so there are no
rows without a label and nothing to mask: a mean is over that task's images,
and a task of n images is seen steps x batch_size / n times. `from_source`
starts the backbone at the source's features instead of fresh. A source_weight
of 0 leaves the source out.

In training a BatchNorm layer sees each stream by itself; its moving statistics
mix both, so they are taken from the target's images at the end.

Row: M23 (articles 002, 003).
Source: Caruana 1997, Multitask Learning. https://doi.org/10.1023/A:1007379606734
"""

from ktransfer.engine.kinds import NotNegative
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import fit
from ktransfer.stages.streams import first_backbone, two_streams


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    source_weight: NotNegative = 1.0,
    target_weight: NotNegative = 1.0,
    from_source: bool = False,
    **training,
):
    backbone = first_backbone(source, seed=seed, from_source=from_source)
    both = two_streams(target, source, backbone, backbone, seed=seed)
    model = both.get_layer("target_network")

    def alone(labels, logits):
        return target_weight * cross_entropy(labels, logits)

    def together(labels, outputs):
        own = alone(labels["target"], outputs["target"])
        other = cross_entropy(labels["source"], outputs["source"])
        return own + source_weight * other

    if source_weight:
        trained, loss = both, together
        data = {"target": target.train, "source": source.task.train}
    else:
        trained, loss, data = model, alone, target.train
    fit(
        trained,
        data,
        steps=steps,
        seed=seed,
        loss=loss,
        served=(model, target.train.x),
        **training,
    )
    return model
