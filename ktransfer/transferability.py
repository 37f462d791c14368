"""What to try: scores of a source for a target, without training.

Pure functions of arrays, in float64. No Keras import.
"""

import numpy as np


def label_map(probabilities, labels, num_classes=None):
    """Return P(y given z), the target's classes given the source's.

    The joint frequency of y and z is the mean of theta(x)_z over the images
    of class y, times the frequency of y. A source class without any
    probability says nothing; its row is the class frequencies.
    Source: Nguyen et al. 2020, arXiv:2002.12462.

    Args:
        probabilities: theta, `(n, source classes)`, rows that sum to 1.
        labels: integers `(n,)`.
        num_classes: K; default the largest label plus one.

    Returns:
        array `(source classes, K)` of rows that sum to 1.
    """
    theta = _distributions(probabilities)
    one_hot = np.eye(num_classes or int(np.max(labels)) + 1)[labels]
    joint = theta.T @ one_hot / len(theta)
    mass = joint.sum(axis=1, keepdims=True)
    frequencies = np.broadcast_to(one_hot.mean(axis=0), joint.shape).copy()
    return np.divide(joint, mass, out=frequencies, where=mass > 0)


def leep(probabilities, labels):
    """Return the mean of log sum over z of P(y given z) theta(x)_z.

    At most 0, and 0 for a source that answers the target's classes under
    other names.
    Source: Nguyen et al. 2020, arXiv:2002.12462.

    Args:
        probabilities: theta, `(n, source classes)`, rows that sum to 1.
        labels: integers `(n,)`.
    """
    theta = _distributions(probabilities)
    expected = theta @ label_map(theta, labels)
    return float(np.log(expected[np.arange(len(labels)), labels]).mean())


def _distributions(probabilities):
    """Return float64 rows that sum to 1 more exactly than float32 ones."""
    theta = np.asarray(probabilities, "float64")
    return theta / theta.sum(axis=1, keepdims=True)
