"""Minima that are found without training: convex problems, in NumPy.

A linear model under softmax cross-entropy and a penalty has one minimum.
Newton's method reaches it to rounding, so that no learning rate, no batch
order and no number of steps stands between the features and what they hold.
"""

import numpy as np


def softmax_regression(x, y, strength, bias=True):
    """Return kernel and bias of the least mean CE + strength ||kernel||^2.

    The bias is not penalised; without one it is 0. Newton's method in float64,
    by conjugate gradients, so that no Hessian is stored; a step is halved
    until the loss falls.

    Args:
        x: features `(n, d)`.
        y: `(n, K)`, one-hot.
        strength: above 0; features that separate the classes have no minimum
            without a penalty.
        bias: whether the model has one.

    Returns:
        (kernel `(d, K)`, bias `(K,)`), float64.
    """
    x = np.c_[x, np.full(len(x), float(bias))]
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
