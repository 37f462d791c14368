"""Linear probe: one linear layer, trained on the source's frozen features.

Minimises CE + strength ||kernel||^2 over z = phi(x) W + b, phi frozen and
computed once per image; the bias is not penalised. `layer` names where phi
ends. `solver` "adam" takes `steps` optimiser steps; "direct" goes to the
minimum itself by Newton's method, leaves `steps` and the training options
unused, and needs a strength above 0, since without a penalty features that
separate the classes have no minimum. The default strength, 0, is ours.

"adam" is the default, since every method of a comparison takes the same number
of optimiser steps, and "direct" takes none. It does not reach the minimum: from
CIFAR-10 to 100 labelled digits of MNIST, 600 steps at 1e-3 end at .032 where
the minimum (strength 1e-3) is .018; the test accuracy, .880, is the same.

Row: M2 (article 002, sections 3.1 and 4; article 003, section 2).
Source: Alain and Bengio 2016. https://arxiv.org/abs/1610.01644
"""

from typing import Literal

from ktransfer.engine.kinds import Layer, NotNegative
from ktransfer.models.surgery import copy_backbone
from ktransfer.stages.heads import linear_head


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    layer: Layer = "features",
    strength: NotNegative = 0.0,
    solver: Literal["adam", "direct"] = "adam",
    **training,
):
    return linear_head(
        target,
        copy_backbone(source.model, layer=layer),
        solver=solver,
        strength=strength,
        steps=steps,
        seed=seed,
        **training,
    )
