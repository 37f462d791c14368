"""Frozen features of two domains, mapped onto each other."""

import keras
import numpy as np
from keras import layers

from ktransfer.engine.kinds import check
from ktransfer.engine.prediction import predict
from ktransfer.errors import NotApplicable
from ktransfer.measures.solvers import softmax_regression
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import (
    adapt_input,
    copy_backbone,
    freeze,
    head_layer,
)
from ktransfer.stages.domains import (
    require_same_classes,
    without_labels,
)


def read_domains(target, source):
    """Return the source's frozen features as readers of either domain.

    Returns:
        ({"target": reader, "source": reader}, {"target": images, "source":
        images}): a reader maps raw images of its task to flat features
        `(n, d)` in inference mode, and both hold one copy of the backbone;
        the images are those of `without_labels` and the source's own.

    Raises:
        NotApplicable: the classes differ.
    """
    require_same_classes(target, source)
    backbone = copy_backbone(source.model)
    freeze(backbone)
    images = {"target": without_labels(target), "source": source.task.train.x}
    readers = {}
    for name, x in images.items():
        inputs = keras.Input(x.shape[1:], dtype="uint8", name=name)
        adapted = adapt_input(backbone, x.shape[1:])
        features = InferenceMode(adapted, name=f"{name}_reader")(inputs)
        flat = layers.Flatten(name=f"{name}_flat")(features)
        readers[name] = keras.Model(inputs, flat)
    return readers, images


def aligned(target, source, readers, maps, *, seed, penalty):
    """Return raw target images -> reader, map, linear classifier.

    The classifier is softmax regression on the source's labels, through the
    source's reader and map, at the minimum itself. The papers' are as convex
    (SVM, least squares); one that Adam has not brought there yet still leans
    on directions in which the domains differ.

    Args:
        target, source: the `Task` and the `Source`.
        readers: of `read_domains`.
        maps: frozen layers of the same names, features -> aligned features;
            one layer twice to share it.
        seed: of the method.
        penalty: of the classifier, times ||kernel||^2; above 0.
    """
    check("Positive", penalty=penalty)
    features = {name: maps[name](readers[name].output) for name in readers}
    head = head_layer(target.num_classes, "logits", seed)
    images = readers["target"].input
    model = keras.Model(images, head(features["target"]), name="aligned")
    ours = keras.Model(readers["source"].input, features["source"])
    _solve(head, ours, source.task.train, penalty)
    return model


def _solve(head, reader, data, penalty):
    """Put softmax regression on what `reader` reads of `data` into `head`."""
    one_hot = np.eye(head.units)[data.y]
    features = predict(reader, data.x)
    head.set_weights(softmax_regression(features, one_hot, penalty))


def feature_moments(reader, images):
    """Return mean, deviation `(d,)` and correlation `(d, d)` of features.

    All are float64 and over all images. A constant feature has deviation 1,
    so that to standardise it is to centre it, and correlation 0 even with
    itself.

    Args:
        reader: images -> features `(n, d)`.
        images: `(n, height, width, channels)` uint8.
    """
    features = predict(reader, images)
    mean = features.mean(axis=0, dtype="float64")
    covariance = np.zeros((len(mean), len(mean)))
    for start in range(0, len(features), 1000):
        centred = features[start : start + 1000] - mean
        covariance += centred.T @ centred / len(features)
    deviation = np.sqrt(np.diag(covariance))
    # Below it the deviation is the rounding of float32.
    constant = deviation <= 1e-6 * np.abs(mean)
    covariance[constant] = covariance[:, constant] = 0
    deviation[constant] = 1
    return mean, deviation, covariance / np.outer(deviation, deviation)


def standardised(readers, images):
    """Return `readers` whose features have mean 0 and deviation 1 by domain.

    Args:
        readers, images: of `read_domains`.
    """
    found = {}
    for name, reader in readers.items():
        mean, deviation, _ = feature_moments(reader, images[name])
        layer = _standardising(name, mean, deviation, np.eye(len(mean)))
        found[name] = keras.Model(reader.input, layer(reader.output))
    return found


def _standardising(name, mean, deviation, matrix):
    """Return the frozen layer f -> ((f - mean) / deviation) matrix."""
    kernel = matrix / deviation[:, None]
    dense = layers.Dense(kernel.shape[1], name=f"{name}_align")
    dense.trainable = False
    dense.build((None, len(mean)))
    dense.set_weights([kernel, -mean @ kernel])
    return dense


def linearly_aligned(target, source, align, *, seed, penalty):
    """Return `aligned` on standardised features, times a matrix a domain.

    A domain's features f become ((f - mean) / deviation) matrix, a Dense
    layer `target_align` or `source_align`, with the domain's own moments.

    Args:
        target, source: the `Task` and the `Source`.
        align: function (correlation of the target's features, that of the
            source's) -> (target's matrix, source's), all float64, `(d, k)`.
        seed, penalty: as in `aligned`.
    """
    readers, images = read_domains(target, source)
    moments = {
        name: feature_moments(reader, images[name])
        for name, reader in readers.items()
    }
    matrices = align(moments["target"][2], moments["source"][2])
    maps = {}
    for name, matrix in zip(("target", "source"), matrices, strict=True):
        mean, deviation, _ = moments[name]
        maps[name] = _standardising(name, mean, deviation, matrix)
    return aligned(target, source, readers, maps, seed=seed, penalty=penalty)


def num_kept(eigenvalues, num_components):
    """Return how many components to keep: `num_components`, or all there are.

    Those of an eigenvalue below 1e-8 of the largest are rounding.

    Args:
        eigenvalues: >= 0 up to rounding, in ascending order.
        num_components: as asked for.

    Raises:
        KTransferError: `E_ARGUMENT` for fewer than one.
        NotApplicable: all eigenvalues are 0.
    """
    check("Count", num_components=num_components)
    found = int(np.sum(eigenvalues > 1e-8 * eigenvalues[-1]))
    if eigenvalues[-1] <= 0:
        raise NotApplicable(
            "the source's features are the same for all images of a domain; "
            "expected some that vary."
        )
    return min(num_components, found)
