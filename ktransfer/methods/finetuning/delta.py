"""DELTA: fine-tuning that holds the feature maps, the useful channels most.

L = CE + strength / 2 x sum over blocks j and channels c of
A_jc (C / HW) ||F_jc(W) - F_jc(W_s)||^2 + head_strength / 2 ||W_head||^2, with
F_jc channel c of block j's output. The squares are summed over the images of
the batch, as in the authors' code, to whose batch of 64 the strength belongs.

A_j = softmax over c of (s_jc / `temperature`), s_jc the rise of the loss when
channel c is zeroed, minus the mean of the rises of block j and over their
standard deviation; equal rises share alike. The rises are measured before
training, with a head fitted on the frozen source, which runs in inference
mode. Without strength there is no such stage.

Strengths and temperature are the authors' (train.py: 6,000 to 9,000 steps of
SGD at rate 0.01). Their head term counts the head's bias too. They fit the
head for 10 epochs and read four batches of 32 images (channel_eval.py,
run.sh); `probe_share` of the steps and `num_images` are ours.

Row: M25 (article 003).
Source: Li et al. 2019. https://arxiv.org/abs/1901.09229
"""

import math

import keras
import numpy as np
from keras import ops

from ktransfer.engine.kinds import Count, NotNegative, Positive, Share
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.prediction import predict
from ktransfer.engine.training import fit
from ktransfer.measures.evaluation import losses_without_channels
from ktransfer.models.blocks import blocks
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import classifier, copy_backbone, inline
from ktransfer.seeds import stream
from ktransfer.stages.heads import block_chain, divided, probed
from ktransfer.stages.weights import constant


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    strength: NotNegative = 0.01,
    head_strength: NotNegative = 0.01,
    temperature: Positive = 5.0,
    probe_share: Share = 0.2,
    num_images: Count = 250,
    **training,
):
    model = classifier(copy_backbone(source.model), target, seed=seed)
    graph = keras.Model(model.input, {"logits": model.output, "maps": []})
    share = probe_share if strength else 0
    probing, tuning, later = divided(steps, share, seed=seed)
    shares = []
    if strength:
        backbone = copy_backbone(source.model)
        probe = probed(target, backbone, steps=probing, seed=seed, **training)
        found = _importance(probe, target, seed, num_images, temperature)
        shares = [constant(share) for share in found]
        graph = _compared(model, probe, [*blocks(backbone)])
    head = model.get_layer("logits").kernel

    def loss(labels, outputs):
        total = cross_entropy(labels, outputs["logits"])
        for (old, new), share in zip(outputs["maps"], shares):
            total = total + strength / 2 * _distance(old, new, share)
        if head_strength:
            total = total + head_strength / 2 * ops.sum(ops.square(head))
        return total

    fit(graph, target.train, steps=tuning, seed=later, loss=loss, **training)
    return model


def _importance(probe, target, seed, num_images, temperature):
    """Return A_j of each block below the head, a list of `(channels,)`."""
    order = np.random.default_rng(stream(seed, "channels"))
    rows = order.permutation(len(target.train.y))[:num_images]
    x, labels = target.train.x[rows], target.train.y[rows]
    pieces, found = block_chain(probe), []
    for number, piece in enumerate(pieces[:-1], start=1):
        x = predict(piece, x)
        losses = losses_without_channels(pieces[number:], x, labels)
        found.append(_attention(losses, temperature))
    return found


def _attention(losses, temperature):
    """Return the softmax over the standardised losses without a channel.

    The loss with all channels, taken off each, would change nothing.
    """
    losses = np.array(losses, "float64")
    standard = (losses - losses.mean()) / (losses.std() or 1)
    return ops.softmax((standard / temperature).astype("float32"))


def _compared(model, probe, names):
    """Return images -> logits, and pairs of maps: tuned, and of the probe."""
    mine = inline(model, tap=[*names, "logits"])
    twin = InferenceMode(inline(probe, tap=names), name="source")(mine.input)
    maps = [(mine.output[name], twin[name]) for name in names]
    outputs = {"logits": mine.output["logits"], "maps": maps}
    return keras.Model(mine.input, outputs, name="compared")


def _distance(tuned, kept, shares):
    """Return the sum of C / HW x share x square over images and channels."""
    *positions, channels = tuned.shape[1:]
    squares = ops.square(tuned - kept) * shares
    return channels / math.prod(positions) * ops.sum(squares)
