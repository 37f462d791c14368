"""Linear probe: one linear layer, trained on the source's frozen features.

Minimises CE + strength ||kernel||^2 over z = phi(x) W + b, phi frozen and
computed once per image; the bias is not penalised. `layer` names where phi
ends. `solver` "adam" takes `steps` optimiser steps; "direct" goes to the
minimum itself by Newton's method, leaves `steps` and the training options
unused, and needs a strength above 0, since without a penalty features that
separate the classes have no minimum. The default strength, 0, is ours.

Row: M2 (article 002, sections 3.1 and 4; article 003, section 2).
Source: Alain and Bengio 2016. https://arxiv.org/abs/1610.01644
"""

import keras
import numpy as np
from keras import ops

from ktransfer.engine.arguments import check_alive
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.prediction import predict
from ktransfer.engine.training import fit
from ktransfer.errors import KTransferError, unknown
from ktransfer.measures.solvers import softmax_regression
from ktransfer.models.graph import node_of
from ktransfer.models.surgery import classifier, copy_backbone, freeze


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    layer="features",
    strength=0.0,
    solver="adam",
    **training,
):
    _check(solver, strength)
    backbone = copy_backbone(source.model, layer=layer)
    freeze(backbone)
    model = classifier(backbone, target, seed=seed)
    head = model.get_layer("logits")
    if solver == "direct":
        (features,) = node_of(model.output).input_tensors
        z = predict(keras.Model(model.input, features), target.train.x)
        check_alive(z)
        one_hot = np.eye(target.num_classes)[target.train.y]
        head.set_weights(softmax_regression(z, one_hot, strength))
        return model

    def penalised(labels, outputs):
        penalty = strength * ops.sum(ops.square(head.kernel))
        return cross_entropy(labels, outputs) + penalty

    fit(
        model,
        target.train,
        steps=steps,
        seed=seed,
        loss=penalised if strength else cross_entropy,
        **training,
    )
    return model


def _check(solver, strength):
    if solver not in ("adam", "direct"):
        raise unknown("solver", solver, ["adam", "direct"])
    if solver == "direct" and not strength > 0:
        raise KTransferError(
            "E_ARGUMENT",
            f"strength is {strength!r}; the direct solver expects one above 0.",
        )
