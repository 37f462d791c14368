"""Losses that two or more methods share: on logits, as means over the batch."""

import math

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


# Below it a squared norm counts as that of a map that is zero everywhere.
_LEAST_SQUARE = 1e-12


def attention_energy(features):
    """Return the mean over channels of squares, `(n, height, width, 1)`."""
    return ops.mean(ops.square(features), axis=-1, keepdims=True)


def attention_map(energy):
    """Return each image's `energy`, flattened, at norm 1; zeros stay zeros.

    Source: Zagoruyko and Komodakis 2017, arXiv:1612.03928.
    """
    flat = ops.reshape(energy, (-1, math.prod(energy.shape[1:])))
    squares = ops.sum(ops.square(flat), axis=-1, keepdims=True)
    return flat / ops.sqrt(ops.maximum(squares, _LEAST_SQUARE))


def _lengths(features):
    """Return the distances of all pairs, `(n, n)`.

    The root is not taken at 0, where it has no gradient: equal images are at
    distance 0, and without influence.
    """
    squares = ops.sum(ops.square(features[:, None] - features), axis=-1)
    positive = squares > 0
    root = ops.sqrt(ops.where(positive, squares, 1.0))
    return ops.where(positive, root, 0.0)


def relative_distances(features):
    """Return the distances of all pairs by the mean positive one, `(n, n)`.

    Source: Park et al. 2019, arXiv:1904.05068.
    """
    lengths = _lengths(features)
    positive = ops.sum(ops.cast(lengths > 0, lengths.dtype))
    mean = ops.sum(lengths) / ops.maximum(positive, 1.0)
    return lengths / ops.where(mean > 0, mean, 1.0)


def triplet_angles(features):
    """Return the cosines of the angles i-j-k, `(j, i, k)`; 0 beside a 0.

    (f_i - f_j)(f_k - f_j)' comes from the products of all pairs, since all
    differences of all triplets would cost several times the student.
    """
    lengths = _lengths(features)
    centred = features - ops.mean(features, axis=0)
    product = ops.matmul(centred, ops.transpose(centred))
    dots = product - product[:, :, None] - product[:, None, :]
    dots = dots + ops.diagonal(product)[:, None, None]
    inverse = 1 / ops.where(lengths > 0, lengths, 1.0)
    inverse = ops.where(lengths > 0, inverse, 0.0)
    return dots * inverse[:, :, None] * inverse[:, None, :]


def huber(values, wanted):
    """Return the mean Huber loss, linear from 1 on; `wanted` is constant."""
    error = ops.abs(values - ops.stop_gradient(wanted))
    return ops.mean(ops.where(error < 1, 0.5 * ops.square(error), error - 0.5))


def covariance_distance(first, second):
    """Return ||C_1 - C_2||^2 / (4 d^2), C the covariances, a scalar.

    They divide by n - 1. Adding a constant to all rows of a set changes
    nothing.
    Source: Sun and Saenko 2016, Deep CORAL, arXiv:1607.01719.

    Args:
        first, second: `(batch, d)`, of at least two rows each.
    """
    difference = _covariance(first) - _covariance(second)
    return ops.sum(ops.square(difference)) / (4 * first.shape[-1] ** 2)


def _covariance(x):
    centred = x - ops.mean(x, axis=0)
    count = ops.cast(ops.shape(x)[0], x.dtype)
    return ops.matmul(ops.transpose(centred), centred) / (count - 1)


def kernel_distance(first, second, powers=(-3, -2, -1, 0, 1)):
    """Return MMD^2 of two sets under a sum of Gaussians, a scalar >= 0.

    The quadratic estimator over all pairs, an image with itself included:
    mean k(s, s') + mean k(t, t') - 2 mean k(s, t). The kernel k is the sum of
    exp(-distance^2 / (2 variance)), variance = 2^power x the mean squared
    distance of all pairs of both sets, a constant to the gradient.
    Source: Long et al. 2015, DAN, arXiv:1502.02791; powers and sum as in TLlib.

    Args:
        first, second: `(batch, d)`.
        powers: of 2, one a Gaussian.
    """
    squares = _squared_distances(ops.concatenate([first, second], axis=0))
    mean = ops.stop_gradient(ops.mean(squares))
    # Equal rows throughout are at distance 0, whatever the unit.
    unit = ops.where(mean > 0, mean, 1.0)
    kernel = sum(
        ops.exp(-squares / (2 * 2.0**power * unit)) for power in powers
    )
    n = ops.shape(first)[0]
    within = ops.mean(kernel[:n, :n]) + ops.mean(kernel[n:, n:])
    return within - 2 * ops.mean(kernel[:n, n:])


def _squared_distances(rows):
    """Return the squared distance of every two rows, `(n, n)`."""
    # A shift changes no distance, and keeps the rounding small.
    rows = rows - ops.stop_gradient(ops.mean(rows, axis=0))
    product = ops.matmul(rows, ops.transpose(rows))
    norms = ops.diagonal(product)
    return ops.maximum(norms[:, None] + norms - 2 * product, 0.0)
