"""Gradient surgery (PCGrad): hard sharing without conflicting gradients.

On the shared weights, if g_i . g_j < 0 then g_i -= (g_i . g_j / ||g_j||^2) g_j
with the other task's own g_j, for either task; then both are summed. A head
gets the gradient of its own task as it is. With two tasks there is one other
task each, so PCGrad's random order of tasks has no effect.

A step costs a forward and a backward pass for each task, made inside the loss:
what is returned there has exactly the summed gradients, and the plain sum of
the losses as its value. `from_source` and BatchNorm as in hard sharing.

Source: Yu et al. 2020. https://arxiv.org/abs/2001.06782
"""

import keras
from keras import ops

from ktransfer.engine import backend
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import fit, reestimate_statistics
from ktransfer.stages.streams import first_backbone, two_streams


def transfer(target, source, *, steps, seed, from_source=False, **training):
    backbone = first_backbone(source, seed=seed, from_source=from_source)
    both = two_streams(target, source, backbone, backbone, seed=seed)
    networks = {name: both.get_layer(f"{name}_network") for name in both.output}
    # With the images among the outputs, the loss can run each task by itself.
    images = {f"{name}_images": x for name, x in both.input.items()}
    fit(
        keras.Model(both.input, {**both.output, **images}),
        {"target": target.train, "source": source.task.train},
        steps=steps,
        seed=seed,
        loss=_surgery(networks, backbone.trainable_variables),
        **training,
    )
    reestimate_statistics(networks["target"], target.train.x)
    return networks["target"]


def _in(variable, others):
    return any(variable is other for other in others)


def _surgery(networks, shared):
    """Return the loss whose gradients on `shared` do not conflict."""

    def loss(labels, outputs):
        total, surrogate, on_shared = 0.0, 0.0, []
        for name, network in networks.items():
            own = [v for v in network.trainable_variables if not _in(v, shared)]

            def task_loss(name=name, network=network):
                logits = network(outputs[f"{name}_images"], training=True)
                return cross_entropy(labels[name], logits)

            value, slopes = backend.value_and_gradients(task_loss, shared + own)
            total = total + value
            on_shared.append(slopes[: len(shared)])
            surrogate += _with_gradients(own, slopes[len(shared) :])
        surrogate += _with_gradients(shared, _without_conflict(*on_shared))
        return surrogate + ops.stop_gradient(total - surrogate)

    return loss


def _with_gradients(variables, slopes):
    """Return a scalar whose gradients in `variables` are `slopes`."""
    return _dot([ops.stop_gradient(slope) for slope in slopes], variables)


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
