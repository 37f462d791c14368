"""Feature extraction: the source's features, frozen, under a new head.

z = phi(x) with phi frozen and computed once per image; the head
Dense(hidden_units, relu) -> Dense(num_classes) is trained on z. `layer` names
where phi ends; `hidden_units` None makes the head linear.

Row: M2 (article 002, sections 3.1 and 4; article 003, section 2).
Source: Donahue et al. 2014, DeCAF. https://arxiv.org/abs/1310.1531
"""

from ktransfer.engine.kinds import Count, Layer
from ktransfer.engine.training import fit
from ktransfer.models.surgery import classifier, copy_backbone, freeze


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
    backbone = copy_backbone(source.model, layer=layer)
    freeze(backbone)
    model = classifier(backbone, target, seed=seed, hidden_units=hidden_units)
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model
