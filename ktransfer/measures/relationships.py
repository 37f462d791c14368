"""What a target class is among the source's classes: P(source class given y).

Pure functions of arrays, in float64. No Keras import.
Source: You et al. 2020, Co-Tuning, of whose code relationship_learning.py is
followed: https://github.com/thuml/CoTuning
"""

import numpy as np

from ktransfer.measures.solvers import softmax_regression

# C of the authors' search: a penalty of 1 / (2 C) beside the summed loss.
_WEIGHTS = [
    factor * 10.0**power
    for power in range(4, -5, -1)
    for factor in ((3.0, 1.0) if power < 4 else (1.0,))
]


def softmax(logits):
    """Return rows that sum to 1, float64 as the sums under them."""
    logits = np.asarray(logits, "float64")
    return np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True))


def calibrated(logits, labels, lowest=0.05, highest=20.0):
    """Return the T of least cross-entropy of softmax(logits / T).

    The cross-entropy is convex in 1 / T. Its slope there is the expected
    logit minus that of the label: above 0 the answers are too sure.

    Args:
        logits: `(n, K)`.
        labels: integers `(n,)`.
        lowest, highest: bounds of T.
    """
    logits = np.asarray(logits, "float64")
    true = logits[np.arange(len(labels)), labels]
    low, high = np.log(lowest), np.log(highest)
    for _ in range(50):
        middle = (low + high) / 2
        expected = np.sum(softmax(logits / np.exp(middle)) * logits, axis=-1)
        too_sure = np.mean(expected - true) > 0
        low, high = (middle, high) if too_sure else (low, middle)
    return np.exp((low + high) / 2)


def direct(theta, labels, num_classes):
    """Return the source's mean belief of each target class, `(K, K_s)`.

    Args:
        theta: probabilities of the source's classes, `(n, K_s)`.
        labels: integers `(n,)`, every class among them.
        num_classes: K.
    """
    return np.stack([theta[labels == y].mean(0) for y in range(num_classes)])


def reverse(training, validation, num_classes):
    """Return P(source class given y), `(K, K_s)`, by Bayes' rule.

    P(y given z) is a softmax regression of the labels on the source's
    probabilities, read at the one-hot vector of each source class z. It has no
    bias; its penalty is that of the best accuracy on `validation`, on which
    its logits are calibrated too. P(z) is the mean probability of all images.

    Args:
        training, validation: pairs of probabilities `(n, K_s)` and labels
            `(n,)`.
        num_classes: K.
    """
    theta, labels = training
    one_hot = np.eye(num_classes)[labels]
    kernels = [
        softmax_regression(theta, one_hot, 1 / (2 * c * len(theta)), bias=False)
        for c in _WEIGHTS
    ]
    held, true = validation
    accuracies = [
        np.mean((held @ kernel).argmax(-1) == true) for kernel, _ in kernels
    ]
    # The least penalty, where several are best.
    kernel, _ = kernels[int(np.argmax(accuracies))]
    logits = kernel / calibrated(held @ kernel, true)
    given_source = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
    marginal = np.concatenate([theta, held]).mean(axis=0)
    # In logarithms: a class that no source class answers with is all zeros
    # otherwise, and has no row.
    least = np.finfo("float64").tiny
    return softmax(given_source.T + np.log(np.maximum(marginal, least)))
