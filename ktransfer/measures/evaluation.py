"""What is measured of a run: on the test split, and besides."""

import keras
import numpy as np

from ktransfer import data
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.engine.prediction import predict
from ktransfer.errors import Diverged
from ktransfer.measures import transferability
from ktransfer.models.own import answering
from ktransfer.models.surgery import adapt_input, copy, copy_backbone

# Maps that are read at once, of several channels.
_ROWS = 1000
# Classes whose confusions a record lists, one by one.
_MOST_CONFUSED = 50


def evaluate(model, target):
    """Open the test split of `target`, once, and measure `model` on it.

    Returns:
        dictionary for the record: accuracies, the mean cross-entropy in nats,
        and which class was taken for which; status `diverged` where a logit
        is not finite.
    """
    test = data.test_split(target)
    logits = predict(model, test.x).astype("float64")
    if not np.isfinite(logits).all():
        return {"status": "diverged", "reason": "logits are not finite"}
    guessed = logits.argmax(axis=-1)
    right = guessed == test.y
    top = logits.max(axis=-1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=-1))
    losses = log_sum - logits[np.arange(len(test.y)), test.y]
    return {
        "status": "ok",
        "num_test_images": len(test.y),
        "test_accuracy": float(right.mean()),
        "test_loss": float(losses.mean()),
        **_by_class(test.y, guessed, logits.shape[-1]),
    }


def _by_class(labels, guessed, num_classes):
    """Return what the record says of each class; None of one without images."""
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (labels, guessed), 1)
    counts, right = confusion.sum(axis=1), confusion.diagonal()
    shares = [r / n if n else None for r, n in zip(right, counts)]
    known = [share for share in shares if share is not None]
    found = {
        "balanced_accuracy": float(np.mean(known)),
        "per_class_accuracy": [
            None if share is None else round(float(share), 6)
            for share in shares
        ],
    }
    if 2 < num_classes <= _MOST_CONFUSED:
        found["confusion"] = confusion.tolist()
    return found


def accuracy(model, split):
    """Return the share of images of `split` that `model` gets right.

    Images of another shape reach it through `adapt_input`.

    Raises:
        Diverged: a logit is not finite.
    """
    model = adapt_input(model, split.x.shape[1:])
    logits = _finite(predict(model, split.x))
    return float(np.mean(logits.argmax(axis=-1) == split.y))


def held_out(model, split):
    """Measure `model` on images that are held out of the training images.

    Returns:
        dictionary for the record: the accuracy, and its mean over the classes.

    Raises:
        Diverged: a logit is not finite.
    """
    model = adapt_input(model, split.x.shape[1:])
    guessed = _finite(predict(model, split.x)).argmax(axis=-1)
    right = guessed == split.y
    shares = [right[split.y == k].mean() for k in np.unique(split.y)]
    return {
        "validation_accuracy": float(right.mean()),
        "validation_balanced_accuracy": float(np.mean(shares)),
    }


def _finite(logits):
    if not np.isfinite(logits).all():
        raise Diverged("logits are not finite")
    return logits


def information(model, images, source, most=2000):
    """Return how good an adaptation looks without a label of the target, nats.

    H(mean p) - mean H(p) of the answers p to the target's `images`, large for
    answers that are certain and of every class, minus the mean cross-entropy
    on labelled images of the source, of which an adaptation that is certain
    for no reason knows nothing any more. BatchNorm reads either domain with
    its own statistics.
    Source: Shi and Sha 2012, arXiv:1206.6438, who weigh both errors so.

    Args:
        model: raw images of the target -> logits.
        images: of the target, `(n, height, width, channels)` uint8.
        source: labelled `Split`, with the model's classes.
        most: images of the source that are read, evenly spaced.

    Raises:
        Diverged: a logit is not finite.
    """
    p = _probabilities(_finite(predict(model, images)))
    told = _entropy(p.mean(axis=0)) - _entropy(p).mean()
    return float(told - _source_loss(model, source, most))


def _source_loss(model, source, most):
    """Return the mean cross-entropy of `model` on images of the source."""
    rows = np.linspace(0, len(source.y) - 1, min(most, len(source.y)))
    x, y = source.x[rows.astype(int)], source.y[rows.astype(int)]
    x = _as_read_by(model, x)
    twin = copy(model)
    reestimate_statistics(twin, x)
    q = _probabilities(_finite(predict(twin, x)))
    return -np.log(np.maximum(q[np.arange(len(y)), y], 1e-300)).mean()


def _as_read_by(model, images):
    """Return `images` of another shape as the images that `model` takes."""
    blank = keras.Input(model.input.shape[1:], dtype="uint8", name="blank")
    reader = adapt_input(keras.Model(blank, blank), images.shape[1:])
    return predict(reader, images)


def _entropy(p):
    return -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)


def _probabilities(logits):
    shifted = logits.astype("float64") - logits.max(axis=-1, keepdims=True)
    p = np.exp(shifted)
    return p / p.sum(axis=-1, keepdims=True)


def scores(names, task, source):
    """Return scores of `source` for `task`, name -> number, without training.

    Args:
        names: of `transferability.SCORES`.
        task: the `Task`; its labelled images are read.
        source: the `Source`.
    """
    x, y = task.train.x, task.train.y
    logits = predict(adapt_input(answering(source), task.image_shape), x)
    features = predict(
        adapt_input(copy_backbone(source.model), task.image_shape), x
    ).reshape(len(x), -1)
    given = {"leep": _probabilities(logits), "nce": logits.argmax(axis=-1)}
    return {
        name: float(transferability.SCORES[name](given.get(name, features), y))
        for name in names
    }


def losses_without_channels(pieces, maps, labels):
    """Return the cross-entropy with each channel of `maps` at 0 in turn.

    Args:
        pieces: models, one after the other from `maps` to logits.
        maps: `(n, ..., channels)`.
        labels: int32 `(n,)`.

    Returns:
        list of `channels` scalars.
    """
    masks = 1 - np.eye(maps.shape[-1], dtype="float32")
    losses, several = [], max(_ROWS // len(maps), 1)
    for start in range(0, len(masks), several):
        parts = [maps * mask for mask in masks[start : start + several]]
        rows = np.concatenate(parts)
        for piece in pieces:
            rows = predict(piece, rows)
        logits = np.split(rows, len(parts))
        losses += [cross_entropy(labels, part) for part in logits]
    return losses
