"""Co-tuning: the source's own head learns what each target class looks like.

L = CE(y, target head) + strength x CE(p(y_s given y), source head), both
heads on the tuned features; the source head is not in the result. The row
p(y_s given y) is the mean of softmax(F_s(x) / T) over the labelled target
images of class y: the source's classes that y resembles.

T calibrates the source: it gives the least cross-entropy on `num_images`
(ours) of a split held out of the source's own training images. The source
was trained on that split too, so T comes out lower than on new images would
be right; there are no others, the test split being closed.

`head_learning_rate` is that of both heads, None the rate of all. The authors
train with batches of 48, rate 1e-3, ten times that for the heads, and weight
decay 5e-4.

Row: M25 (article 003).
Source: You et al. 2020. https://proceedings.neurips.cc/paper/2020/file/c8067ad1937f728f51288b3eb986afaa-Paper.pdf
"""

import numpy as np
from keras import ops

from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.prediction import predict
from ktransfer.engine.training import fit
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
    strength=2.3,
    num_images=2000,
    head_learning_rate=None,
    **training,
):
    backbone = copy_backbone(source.model)
    model = classifier(backbone, target, seed=seed)
    head = model.get_layer("logits")
    if not strength:
        training["rates"] = own_rate(head_learning_rate, head)
        fit(model, target.train, steps=steps, seed=seed, **training)
        return model
    rows = constant(_relationship(target, source, num_images, seed))

    def loss(labels, outputs):
        wanted = ops.take(rows, labels, axis=0)
        log_given = ops.log_softmax(outputs["source_logits"], axis=-1)
        related = -ops.mean(ops.sum(wanted * log_given, axis=-1))
        return cross_entropy(labels, outputs["logits"]) + strength * related

    both = with_source_head(model, source)
    fit(
        both,
        target.train,
        steps=steps,
        seed=seed,
        loss=loss,
        rates=own_rate(head_learning_rate, head, both.get_layer("source_head")),
        **training,
    )
    return model


def _relationship(target, source, num_images, seed):
    """Return p(y_s given y), `(K, K_s)`, of rows that sum to 1."""
    network = copy(source.model)
    _, held = held_out(source.task, seed)
    known = predict(network, held.x[:num_images])
    temperature = _temperature(known, held.y[:num_images])
    reader = adapt_input(network, target.image_shape)
    theta = _softmax(predict(reader, target.train.x) / temperature)
    classes = range(target.num_classes)
    return np.stack([theta[target.train.y == y].mean(axis=0) for y in classes])


def _temperature(logits, labels, lowest=0.05, highest=20.0):
    """Return the T of least cross-entropy of softmax(logits / T).

    The cross-entropy is convex in 1 / T. Its slope there is the expected
    logit minus that of the label: above 0 the answers are too sure.
    """
    logits = np.asarray(logits, "float64")
    true = logits[np.arange(len(labels)), labels]
    low, high = np.log(lowest), np.log(highest)
    for _ in range(50):
        middle = (low + high) / 2
        expected = np.sum(_softmax(logits / np.exp(middle)) * logits, axis=-1)
        too_sure = np.mean(expected - true) > 0
        low, high = (middle, high) if too_sure else (low, middle)
    return np.exp((low + high) / 2)


def _softmax(logits):
    logits = np.asarray(logits, "float64")
    return np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True))
