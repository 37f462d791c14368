"""Gradient surgery (PCGrad): hard sharing without conflicting gradients.

On the shared weights, if g_i . g_j < 0 then g_i -= (g_i . g_j / ||g_j||^2) g_j
with the other task's own g_j, for either task; then both are summed. A head
gets the gradient of its own task as it is. With two tasks there is one other
task each, so PCGrad's random order of tasks has no effect.

A step costs one forward pass of each task's images and a backward pass of each
loss. `from_source` and BatchNorm as in hard sharing.

Source: Yu et al. 2020. https://arxiv.org/abs/2001.06782
"""

import functools
import itertools

from keras import ops

from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import fit
from ktransfer.stages.streams import first_backbone, two_streams


def transfer(
    target, source, *, steps, seed, from_source: bool = False, **training
):
    backbone = first_backbone(source, seed=seed, from_source=from_source)
    both = two_streams(target, source, backbone, backbone, seed=seed)
    shared = backbone.trainable_variables
    model = both.get_layer("target_network")
    fit(
        both,
        {"target": target.train, "source": source.task.train},
        steps=steps,
        seed=seed,
        loss=_losses,
        combine=functools.partial(_surgery, shared),
        served=(model, target.train.x),
        **training,
    )
    return model


def _losses(labels, outputs):
    return [cross_entropy(labels[name], outputs[name]) for name in outputs]


def _surgery(shared, variables, gradients):
    """Return one gradient for each variable out of those of two losses.

    Args:
        shared: the variables that both tasks have.
        variables: all that are trained.
        gradients: two lists of arrays, one a variable; that of a task is 0 in
            the other's head.
    """
    both = [any(v is other for other in shared) for v in variables]
    parts = [list(itertools.compress(each, both)) for each in gradients]
    repaired = iter(_without_conflict(*parts))
    return [
        next(repaired) if is_shared else first + second
        for is_shared, first, second in zip(both, *gradients, strict=True)
    ]


def _without_conflict(first, second):
    """Return the sum of two gradients after each lost what opposes the other.

    Args:
        first, second: lists of arrays, one a variable; the dot product is
            over all variables together.
    """
    against = ops.minimum(_dot(first, second), 0.0)
    from_first = ops.divide_no_nan(against, _dot(second, second))
    from_second = ops.divide_no_nan(against, _dot(first, first))
    return [
        (a - from_first * b) + (b - from_second * a)
        for a, b in zip(first, second, strict=True)
    ]


def _dot(first, second):
    return sum(ops.sum(a * b) for a, b in zip(first, second, strict=True))
