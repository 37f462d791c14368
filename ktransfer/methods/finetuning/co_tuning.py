"""Co-tuning: the source's own head learns what each target class looks like.

L = CE(y, target head) + strength x CE(p(y_s given y), source head), both
heads on the tuned features; the source head is not in the result.
p(y_s given y), the source's classes that y resembles, comes from softmax(
F_s(x) / T) on the labelled target images, by `relationship`:

    "reverse"  Bayes' rule from p(y given y_s), a calibrated softmax
               regression, of images held out of the labelled ones a choice
    "direct"   the mean over the images of class y

The authors' train.py takes the reverse one; both are in their code. T is the
`temperature`, theirs 1.13 for an ImageNet network. None calibrates it, at
least 1, on `num_images` (ours) of a split held out of the source's training
images: the source was trained on those too, and below 1 T would sharpen what
on new images is too sure already.

`head_learning_rate` is that of the new head alone, None the rate of all. The
authors train with batches of 48, rate 1e-3, ten times that for the new head,
and weight decay 5e-4.

Row: M25 (article 003).
Source: You et al. 2020. https://proceedings.neurips.cc/paper/2020/file/c8067ad1937f728f51288b3eb986afaa-Paper.pdf
"""

from typing import Literal

from keras import ops

from ktransfer.engine.kinds import Count, NotNegative, Positive, check
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.prediction import predict
from ktransfer.engine.training import fit
from ktransfer.errors import unknown
from ktransfer.measures.relationships import (
    calibrated,
    direct,
    reverse,
    softmax,
)
from ktransfer.models.own import answering
from ktransfer.models.surgery import (
    adapt_input,
    classifier,
    copy,
    copy_backbone,
)
from ktransfer.stages.heads import held_out, own_rate
from ktransfer.stages.streams import with_source_head
from ktransfer.stages.weights import constant


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    strength: NotNegative = 2.3,
    temperature: Positive | None = 1.13,
    relationship: Literal["direct", "reverse"] = "reverse",
    num_images: Count = 2000,
    head_learning_rate: Positive | None = None,
    **training,
):
    backbone = copy_backbone(source.model)
    model = classifier(backbone, target, seed=seed)
    rates = own_rate(head_learning_rate, model.get_layer("logits"))
    if not strength:
        fit(
            model, target.train, steps=steps, seed=seed, rates=rates, **training
        )
        return model
    if temperature is None:
        temperature = _temperature(source, num_images, seed)
    check("Positive", temperature=temperature)
    rows = constant(_rows(target, source, temperature, relationship, seed))

    def loss(labels, outputs):
        wanted = ops.take(rows, labels, axis=0)
        log_given = ops.log_softmax(outputs["source_logits"], axis=-1)
        related = -ops.mean(ops.sum(wanted * log_given, axis=-1))
        return cross_entropy(labels, outputs["logits"]) + strength * related

    fit(
        with_source_head(model, source),
        target.train,
        steps=steps,
        seed=seed,
        loss=loss,
        rates=rates,
        **training,
    )
    return model


def _temperature(source, num_images, seed):
    """Return the T of at least 1 that calibrates the source."""
    _, held = held_out(source.task, seed)
    x, y = held.x[:num_images], held.y[:num_images]
    return calibrated(predict(copy(answering(source)), x), y, lowest=1.0)


def _rows(target, source, temperature, relationship, seed):
    """Return p(y_s given y), `(K, K_s)`, of rows that sum to 1."""
    if relationship not in ("direct", "reverse"):
        raise unknown("relationship", relationship, ("direct", "reverse"))
    reader = adapt_input(copy(answering(source)), target.image_shape)

    def read(split):
        return softmax(predict(reader, split.x) / temperature), split.y

    if relationship == "direct":
        theta, labels = read(target.train)
        return direct(theta, labels, target.num_classes)
    part, validation = held_out(target, seed)
    return reverse(read(part.train), read(validation), target.num_classes)
