"""What is measured of a run besides its accuracy on the test split."""

import numpy as np

from ktransfer import transferability
from ktransfer.errors import Diverged
from ktransfer.surgery import adapt_input, copy_backbone
from ktransfer.training import predict


def accuracy(model, split):
    """Return the share of images of `split` that `model` gets right.

    Images of another shape reach it through `adapt_input`.

    Raises:
        Diverged: a logit is not finite.
    """
    model = adapt_input(model, split.x.shape[1:])
    logits = _finite(predict(model, split.x))
    return float(np.mean(logits.argmax(axis=-1) == split.y))


def _finite(logits):
    if not np.isfinite(logits).all():
        raise Diverged("logits are not finite")
    return logits


def information(model, images):
    """Return H(mean p) - mean H(p) of the answers p to `images`, in nats.

    From 0 to log K, large for answers that are certain and of every class. It
    reads no label, so it may choose between adaptations.
    Source: Krause, Perona and Gomes 2010, regularised information maximisation.

    Args:
        model: raw images -> logits.
        images: `(n, height, width, channels)` uint8.

    Raises:
        Diverged: a logit is not finite.
    """
    p = _probabilities(_finite(predict(model, images)))
    return float(_entropy(p.mean(axis=0)) - _entropy(p).mean())


def _entropy(p):
    return -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)


def _probabilities(logits):
    shifted = logits.astype("float64") - logits.max(axis=-1, keepdims=True)
    p = np.exp(shifted)
    return p / p.sum(axis=-1, keepdims=True)


def scores(names, task, source):
    """Return scores of `source` for `task`, name -> number, without training.

    Args:
        names: functions of `transferability`, or "class_balance", the mean
            log frequency of the labels, -H(Y).
        task: the `Task`; its labelled images are read.
        source: the `Source`.
    """
    x, y = task.train.x, task.train.y
    logits = predict(adapt_input(source.model, task.image_shape), x)
    features = predict(
        adapt_input(copy_backbone(source.model), task.image_shape), x
    ).reshape(len(x), -1)
    given = {"leep": _probabilities(logits), "nce": logits.argmax(axis=-1)}
    found = {}
    for name in names:
        if name == "class_balance":
            frequencies = np.bincount(y, minlength=task.num_classes) / len(y)
            found[name] = float(np.log(frequencies[y]).mean())
        else:
            score = getattr(transferability, name)
            found[name] = float(score(given.get(name, features), y))
    return found
