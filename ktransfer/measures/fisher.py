"""The diagonal Fisher information: how much each weight matters to a model."""

import numpy as np
from keras import ops

from ktransfer.engine import backend
from ktransfer.engine.prediction import predict
from ktransfer.seeds import stream

# Classes up to which the expectation over labels is exact.
_FEW = 20


def diagonal_fisher(model, images, variables, *, num_images, seed):
    """Return the diagonal Fisher information of `variables`.

    F = mean over images x of the expectation over y of (d log p(y | x) / d
    w)^2, in inference mode, y being distributed as the model's own p(y | x):
    no label of the data enters. The expectation is exact for up to 20
    classes; for more, each image stands with one label that is drawn from p,
    since a backward pass for each of a thousand would not end.

    Args:
        model: raw images -> logits.
        images: `(n, height, width, channels)` uint8, of what the weights are
            to be held for: the source's own, or the target's where a user has
            no others.
        variables: Keras variables of `model`.
        num_images: how many of the images are used; all if there are fewer.
        seed: of their choice, and of the labels.

    Returns:
        list of float64 arrays >= 0, of the shapes of `variables`.
    """
    random = np.random.default_rng(stream(seed, "fisher"))
    rows = np.sort(random.permutation(len(images))[:num_images])
    pairs, weigh = _pairs(model, images[rows], random)

    def weighted(image, label):
        logits = model(image[None], training=False)
        log_probability = ops.log_softmax(logits)[0][label]
        if not weigh:
            return log_probability
        # Its squared gradient carries the factor p(y | x).
        root = ops.stop_gradient(ops.exp(log_probability / 2))
        return root * log_probability

    totals = backend.squared_gradients(
        weighted, variables, images[rows], *pairs
    )
    return [total / len(rows) for total in totals]


def _pairs(model, images, random):
    """Return places of images with labels, and whether p is yet to weigh."""
    num_classes = model.output.shape[-1]
    places = np.arange(len(images), dtype="int32")
    labels = np.arange(num_classes, dtype="int32")
    if num_classes <= _FEW:
        pairs = np.repeat(places, num_classes), np.tile(labels, len(images))
        return pairs, True
    logits = predict(model, images).astype("float64")
    # The largest of logits and Gumbel noise is distributed as the softmax.
    noise = random.gumbel(size=logits.shape)
    drawn = np.argmax(logits + noise, axis=-1).astype("int32")
    return (places, drawn), False
