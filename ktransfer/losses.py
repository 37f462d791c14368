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


def softened_divergence(teacher_logits, logits, temperature):
    """Return T^2 KL(softmax(teacher / T), softmax(student / T)), a scalar.

    Summed over classes and averaged over the batch; the factor T^2 keeps the
    gradient's size when T changes. Adding a constant to all logits of an
    image changes nothing.
    Source: Hinton, Vinyals and Dean 2015, section 2, arXiv:1503.02531.

    Args:
        teacher_logits: `(batch, num_classes)`, taken as constants.
        logits: `(batch, num_classes)`.
        temperature: T > 0.
    """
    teacher_logits = ops.stop_gradient(teacher_logits)
    wanted = ops.softmax(teacher_logits / temperature, axis=-1)
    log_wanted = ops.log_softmax(teacher_logits / temperature, axis=-1)
    log_given = ops.log_softmax(logits / temperature, axis=-1)
    divergence = ops.sum(wanted * (log_wanted - log_given), axis=-1)
    return temperature**2 * ops.mean(divergence)


def summed_cross_entropy(labels, logits):
    """Return the sum over streams of each one's mean `cross_entropy`.

    Args:
        labels, logits: dictionaries by stream, of what `cross_entropy` takes.
    """
    return sum(cross_entropy(labels[name], logits[name]) for name in labels)
