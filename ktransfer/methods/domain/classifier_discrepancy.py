"""Classifier discrepancy (MCD): two classifiers find what the features lack.

F1 and F2 are two heads of different initial weights on one backbone G. In a
cycle, d = mean |p1 - p2| over the target's images and classes,
A: G, F1 and F2 minimise CE(F1) + CE(F2) on the source, one step;
B: F1 and F2 minimise the same CE - d, one step, and so disagree on target
images unlike the source's;
C: G minimises d, `num_generator_updates` steps.

All is one `fit`, in which every step of a cycle has batches of its own (the
authors go through a cycle on one) and counts as one step: 2 + 4 by default. G
has an optimiser of its own, and so have the heads: B leaves G, and C leaves F1
and F2, bit for bit as they were, moments included. The result is G with F1.

F1 and F2 are Dense(`head_units`)-BatchNorm-ReLU twice and Dense(K), the form of
the authors' and TLlib's heads, whose width depends on the data; 256 is ours.
Linear heads, `head_units` None, agree too soon and put most images into one
class. The authors train by Adam at 2e-4 with batches of 128.

Row: M27 (article 003; article 004).
Source: Saito et al. 2018. https://arxiv.org/abs/1712.02560
"""

import functools

import keras
from keras import layers, ops

from ktransfer.engine.kinds import Count, check
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import Turn, fit
from ktransfer.models.graph import leaves
from ktransfer.models.surgery import cut, head_layer
from ktransfer.stages.domains import two_domains, without_labels


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    num_generator_updates: Count = 4,
    head_units: Count | None = 256,
    from_source: bool = False,
    **training,
):
    check("Count", num_generator_updates=num_generator_updates)
    head = functools.partial(_head, target.num_classes, head_units, seed)
    options = {"seed": seed, "from_source": from_source}
    network, both = two_domains(target, source, head=head, **options)
    second = head(both.output["target_features"].shape[-1], "second_")
    outputs = {
        name: [both.output[name], second(both.output[f"{name}_features"])]
        for name in both.input
    }
    both = keras.Model(both.input, outputs, name="two_classifiers")
    backbone = leaves(cut(network, "features"))
    heads = [x for x in leaves(both) if x not in backbone]
    images = without_labels(target)
    fit(
        both,
        {"source": source.task.train, "target": images},
        steps=steps,
        seed=seed,
        turns=[
            Turn(1, _supervised),
            Turn(1, _apart, heads),
            Turn(num_generator_updates, _together, backbone),
        ],
        served=(network, images),
        **training,
    )
    return network


def _head(num_classes, units, seed, width, prefix=""):
    """Return a classifier, features `(n, width)` -> logits."""
    x = inputs = keras.Input((width,), name="head_input")
    for number in (1, 2) if units else ():
        name = f"{prefix}head{number}"
        x = head_layer(units, f"{name}_dense", seed)(x)
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    logits = head_layer(num_classes, f"{prefix}logits", seed)
    return keras.Model(inputs, logits(x))


def _supervised(labels, outputs):
    first, second = (
        cross_entropy(labels["source"], z) for z in outputs["source"]
    )
    return first + second


def _apart(labels, outputs):
    return _supervised(labels, outputs) - _together(labels, outputs)


def _together(labels, outputs):
    return _discrepancy(*outputs["target"])


def _discrepancy(first, second):
    """Return the mean |p1 - p2| over images and classes, of two logits."""
    return ops.mean(ops.abs(ops.softmax(first) - ops.softmax(second)))
