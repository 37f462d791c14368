"""Classifier discrepancy (MCD): two classifiers find what the features lack.

F1 and F2 are two heads of different initial weights on one backbone G. In a
cycle, d = mean |p1 - p2| over the target's images and classes,
A: G, F1 and F2 minimise CE(F1) + CE(F2) on the source, one step;
B: F1 and F2 minimise the same CE - d, one step, and so disagree on target
images unlike the source's;
C: G minimises d, `num_generator_updates` steps.

All is one `fit`, in which every step of a cycle has batches of its own (the
authors go through a cycle on one) and counts as one step: 2 + 4 by default. A
weight whose turn it is not must rest, and a zero gradient does not rest under
Adam, whose momentum moves it on. So G has an optimiser of its own, and so have
the heads, and each steps in its turn only: B leaves G, and C leaves F1 and F2,
bit for bit as they were, moments included. The result is G with F1. The
authors train by Adam at 2e-4 with batches of 128.

Row: M27 (article 003; article 004).
Source: Saito et al. 2018. https://arxiv.org/abs/1712.02560
"""

import functools

import keras
from keras import ops

from ktransfer.engine import optimizers
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import (
    check_arguments,
    fit,
    reestimate_statistics,
)
from ktransfer.models.surgery import head_layer, select
from ktransfer.stages.domains import two_domains, without_labels


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    num_generator_updates=4,
    from_source=False,
    **training,
):
    check_arguments(num_generator_updates=num_generator_updates)
    network, both = two_domains(
        target, source, seed=seed, from_source=from_source
    )
    second = head_layer(target.num_classes, "second_logits", seed)
    outputs = dict(both.output)
    for name in both.input:
        outputs[f"second_{name}"] = second(outputs[f"{name}_features"])
    both = keras.Model(both.input, outputs, name="two_classifiers")
    clock = keras.Variable(0, dtype="int32", trainable=False, name="clock")

    def turn():
        return ops.minimum(clock % (2 + num_generator_updates), 2)

    def loss(labels, outputs):
        first = cross_entropy(labels["source"], outputs["source"])
        other = cross_entropy(labels["source"], outputs["second_source"])
        apart = _discrepancy(outputs["target"], outputs["second_target"])
        losses = [first + other, first + other - apart, apart]
        return ops.switch(turn(), [lambda x=x: x for x in losses])

    images = without_labels(target)
    layers = [*select(network, "logits"), second]
    heads = [v for layer in layers for v in layer.trainable_variables]
    kind = optimizers.named(training.pop("optimizer", "adam"))
    training["optimizer"] = functools.partial(
        optimizers.InTurns, kind, heads, turn, clock
    )
    streams = {"source": source.task.train, "target": images}
    fit(both, streams, steps=steps, seed=seed, loss=loss, **training)
    reestimate_statistics(network, images)
    return network


def _discrepancy(first, second):
    """Return the mean |p1 - p2| over images and classes, of two logits."""
    return ops.mean(ops.abs(ops.softmax(first) - ops.softmax(second)))
