"""Losses that two or more methods share: on logits, as means over the batch."""

from keras import ops


def cross_entropy(labels, logits):
    """Return the mean softmax cross-entropy, a scalar.

    Args:
        labels: integers `(batch,)`.
        logits: `(batch, num_classes)`.
    """
    log_probabilities = ops.log_softmax(logits, axis=-1)
    chosen = ops.take_along_axis(log_probabilities, labels[:, None], axis=-1)
    return -ops.mean(chosen)
