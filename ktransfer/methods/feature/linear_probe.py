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

from ktransfer.errors import KTransferError, unknown
from ktransfer.losses import cross_entropy
from ktransfer.surgery import classifier, copy_backbone, freeze, node_of
from ktransfer.training import fit, predict


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    learning_rate=1e-3,
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
        (z,) = node_of(model.output).input_tensors
        z = predict(keras.Model(model.input, z), target.train.x)
        one_hot = np.eye(target.num_classes)[target.train.y]
        head.set_weights(_minimum(z, one_hot, strength))
        return model

    def penalised(labels, outputs):
        penalty = strength * ops.sum(ops.square(head.kernel))
        return cross_entropy(labels, outputs) + penalty

    fit(
        model,
        target.train,
        steps=steps,
        learning_rate=learning_rate,
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


def _minimum(x, y, strength):
    """Return kernel and bias of the least loss; y is one-hot `(n, K)`.

    Newton's method in float64, by conjugate gradients, so that no Hessian is
    stored; a step is halved until the loss falls.
    """
    x = np.c_[x, np.ones(len(x))]
    penalty = np.full((x.shape[1], 1), 2.0 * strength)
    penalty[-1] = 0

    def loss(weights):
        z = x @ weights
        fit_term = np.logaddexp.reduce(z, axis=1) - np.sum(z * y, axis=1)
        return np.mean(fit_term) + np.sum(penalty / 2 * weights**2)

    weights = np.zeros((x.shape[1], y.shape[1]))
    for _ in range(100):
        z = x @ weights
        p = np.exp(z - np.logaddexp.reduce(z, axis=1, keepdims=True))
        gradient = x.T @ (p - y) / len(x) + penalty * weights
        if np.linalg.norm(gradient) < 1e-8:
            break
        step = _newton_step(x, p, penalty, gradient)
        # Rounding may hide the last decreases.
        while loss(weights - step) > loss(weights) + 1e-12:
            step = step / 2
        weights = weights - step
    return weights[:-1], weights[-1]


def _newton_step(x, p, penalty, gradient):
    """Return Hessian^-1 gradient, the closer the smaller the gradient."""
    step, residual = np.zeros_like(gradient), gradient
    direction, square = residual, np.sum(residual**2)
    enough = min(0.1, square**0.5) ** 2 * square
    for _ in range(500):
        if square <= enough:
            break
        moved = x @ direction
        moved = p * (moved - np.sum(p * moved, axis=1, keepdims=True))
        moved = x.T @ moved / len(x) + penalty * direction
        rate = square / np.sum(direction * moved)
        step = step + rate * direction
        residual = residual - rate * moved
        square, previous = np.sum(residual**2), square
        direction = residual + square / previous * direction
    return step
