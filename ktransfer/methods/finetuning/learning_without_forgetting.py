"""LwF: fine-tuning under which the source still answers as it did before.

L = CE + strength x T^2 KL(softmax(old / T), softmax(source head / T)), `old`
being the logits of the untouched source on the target's images, recorded
once, and T the `temperature`. The source's own head is tuned along on the
shared features and is not in the result. No source image is needed.

The authors' code has no factor T^2: its gradient on the source head's logits
is lambda (softmax(z / T) - softmax(old / T)) / T (vl_nnsoftmaxdiff.m), with T
2 and lambda 1 (gridSearchPASCAL.m). That is `strength` lambda / T^2, 0.25 at
their values; at another T, T^2 keeps the size of the gradient and theirs
shrinks. TLlib has temperature 4 and strength 3 without T^2. The authors step
on the two terms in turn, not on their sum, after a warm-up in which the new
head is trained alone; it is left out.

Row: M25 (article 003).
Source: Li and Hoiem 2016. https://arxiv.org/abs/1606.09282
"""

import keras

from ktransfer.engine.kinds import NotNegative, Positive
from ktransfer.engine.losses import cross_entropy, softened_divergence
from ktransfer.engine.training import fit
from ktransfer.models.layers import InferenceMode
from ktransfer.models.own import answering
from ktransfer.models.surgery import (
    adapt_input,
    classifier,
    copy,
    copy_backbone,
    freeze,
)
from ktransfer.stages.streams import with_source_head


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    strength: NotNegative = 0.25,
    temperature: Positive = 2.0,
    **training,
):
    backbone = copy_backbone(source.model)
    model = classifier(backbone, target, seed=seed)
    fit(
        _remembering(model, target, source) if strength else model,
        target.train,
        steps=steps,
        seed=seed,
        loss=_keeping(strength, temperature) if strength else cross_entropy,
        **training,
    )
    return model


def _keeping(strength, temperature):
    """Return the loss of a model that also answers as it did before."""

    def loss(labels, outputs):
        kept = softened_divergence(
            outputs["old"], outputs["source_logits"], temperature
        )
        return cross_entropy(labels, outputs["logits"]) + strength * kept

    return loss


def _remembering(model, target, source):
    """Return raw images -> logits of `model`, of the source now, and `old`."""
    both = with_source_head(model, source)
    untouched = adapt_input(copy(answering(source)), target.image_shape)
    freeze(untouched)
    old = InferenceMode(untouched, name="old")(both.input)
    return keras.Model(both.input, {**both.output, "old": old})
