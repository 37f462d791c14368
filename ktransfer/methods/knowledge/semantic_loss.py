"""Semantic loss: fine-tuning, with probability kept on the allowed classes.

L = CE + strength x mean of -log sum over allowed y of p(y given x). The mean
is over the labelled batch and, where the target has unlabelled images, an
equal batch of those. `constraint` names the allowed classes (ours, see
ktransfer/stages/rules.py), read off the source for each image:

    "likely_classes"  the likeliest, `allowed_share` of K
    "likely_mass"     the fewest likely ones that hold that share of p

At strength 0 this is fine-tuning. 0.0005 is that of the authors' semantic.py
on MNIST, beside a cross-entropy summed over ten sigmoids and the constraint of
exactly one class; their readme tunes it from 1 down to 0.0001, and their two
other commands have 0.5 (grids) and 0.25 (rankings).

Row: M11 (article 002, section 3.3; article 004, section 2).
Source: Xu et al. 2018. https://arxiv.org/abs/1711.11157
"""

from typing import Literal

import keras
from keras import ops

from ktransfer.engine.kinds import NotNegative, Share
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import fit
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import classifier, copy_backbone
from ktransfer.stages import rules

# What is taken off a forbidden class's logit: exp(-_FAR) is 0.
_FAR = 1e9


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    strength: NotNegative = 0.0005,
    constraint: Literal["likely_classes", "likely_mass"] = "likely_classes",
    allowed_share: Share = 0.5,
    **training,
):
    rules.check(constraint, rules.CONSTRAINTS)
    model = classifier(copy_backbone(source.model), target, seed=seed)
    streams = {"target": target.train}
    if strength and target.unlabelled is not None:
        streams["unlabelled"] = target.unlabelled

    def loss(labels, outputs):
        given = outputs.values()
        terms = [_outside(x["logits"], x["allowed"]) for x in given]
        hard = cross_entropy(labels, outputs["target"]["logits"])
        return hard + strength * sum(terms) / len(terms)

    trained = model
    if strength:
        allowed = rules.read(constraint, target, source, allowed_share)
        trained = _judged(model, allowed, streams)
    fit(
        trained,
        streams,
        steps=steps,
        seed=seed,
        loss=loss if strength else cross_entropy,
        served=(model, target.train.x),
        **training,
    )
    return model


def _judged(model, rule, streams):
    """Return images of each stream -> its logits and allowed classes."""
    shape = model.input.shape[1:]
    inputs = {n: keras.Input(shape, dtype="uint8", name=n) for n in streams}
    judge = InferenceMode(rule, name="rule")
    outputs = {}
    for name, x in inputs.items():
        outputs[name] = {"logits": model(x), "allowed": judge(x)}
    return keras.Model(inputs, outputs)


def _outside(logits, allowed):
    """Return the mean of -log of the allowed probability, a scalar.

    In logits, so that it stays finite where that probability underflows.
    """
    inside = ops.logsumexp(logits - _FAR * (1 - allowed), axis=-1)
    return ops.mean(ops.logsumexp(logits, axis=-1) - inside)
