"""What to try: scores of a source for a target, without training.

Pure functions of arrays, in float64. No Keras import.
"""

import numpy as np

from ktransfer.errors import KTransferError


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


def nce(source_labels, labels):
    """Return -H(Y given Z), the negative conditional entropy, in nats.

    Z is the source's answer, the argmax of its outputs. From -log K to 0; 0 if
    Z determines Y, -H(Y) if it says nothing. Equals `leep` of one-hot outputs.
    Source: Tran, Nguyen and Hassner 2019, arXiv:1908.08142.

    Args:
        source_labels: integers `(n,)`, the source's class of each image.
        labels: integers `(n,)`, with or without gaps.
    """
    z, y = _indicators(source_labels), _indicators(labels)
    joint = z.T @ y
    given = joint / joint.sum(axis=1, keepdims=True)
    return float(np.log(np.sum(z @ given * y, axis=1)).mean())


def logme(features, labels):
    """Return the log maximum evidence of linear regression, in nats an image.

    For each class, the one-hot y ~ N(F m, 1/beta) under the prior
    m ~ N(0, 1/alpha); log p(y given F, alpha, beta) at the alpha and beta of
    MacKay's fixed point, divided by n, averaged over the classes that occur.
    Any real number, more is better. No bias is added to F. The fixed point is
    the first on the way from alpha / beta = 1, to rounding; the authors' code
    at 3a08950 stops after 11 rounds, short of it where the features say little
    or are many. Theirs is the 1e-5 added to |m|^2 and to the squared error,
    which keeps the evidence finite and costs about 1e-3 where it would grow
    without end. With fewer images than features all d precisions of the prior
    are counted, as the formula has them; their code leaves d - n of them out.
    Source: You et al. 2021, arXiv:2102.11005.

    Args:
        features: F, `(n, d)`; maps are flattened.
        labels: integers `(n,)`, with or without gaps.
    """
    y = _indicators(labels)
    directions, squares = _spectrum(_rows(features))
    inside = (directions.T @ y) ** 2
    outside = np.maximum(y.sum(axis=0) - inside.sum(axis=0), 0)
    each = [
        _log_evidence(squares, column, rest, len(y))
        for column, rest in zip(inside.T, outside)
    ]
    return float(np.mean(each) / len(y))


def h_score(features, labels, shrinkage=None):
    """Return tr(cov(f)^+ cov(E[f given y])): how well classes stand apart.

    From 0 to K - 1, K classes that occur; unchanged by invertible linear
    maps. The pseudo-inverse leaves out directions in which nothing varies.

    Shrunk by a, in [0, 1], it is tr(C^-1 (1 - a) cov(E[f given y])) with
    C = (1 - a) cov(f) + a tr(cov(f)) / d I: never above the plain score, and
    unchanged only by rotations, one common scale and shifts. All covariances
    divide by n. Code that takes C of scikit-learn's LedoitWolf, by n, and
    cov(E[f given y]) of numpy.cov, by n - 1, gives n / (n - 1) times as much:
    ours is (n - 1) / n of it. With fewer images than features the plain score
    is its maximum whatever the labels.
    Source: Bao et al., ICIP 2019; shrunk, Ibrahim et al. 2021,
    arXiv:2110.06893; the coefficient, Ledoit and Wolf 2004.

    Args:
        features: f, `(n, d)`; maps are flattened.
        labels: integers `(n,)`, with or without gaps.
        shrinkage: None for the plain score, "ledoit-wolf" for the
            coefficient that their formula estimates, or a number a.

    Raises:
        KTransferError: `E_ARGUMENT` for another `shrinkage`.
    """
    f, y = centred(features), _indicators(labels)
    directions, squares = _spectrum(f)
    # Share of each direction's variance that lies between the classes.
    sums = y.T @ directions
    between = np.sum(sums**2 / y.sum(axis=0)[:, None], axis=0)
    variances = squares / len(f)
    if shrinkage == "ledoit-wolf":
        shrinkage = _ledoit_wolf(f, variances)
    share = _share(shrinkage)
    kept = (1 - share) * variances
    return float(between @ (kept / (kept + share * _mean(variances, f))))


def transrate(features, labels, epsilon=1e-4):
    """Return R(Z) - mean over classes of R(Z_k), in nats.

    R(Z) = 1/2 log det(I + Z' Z / (n epsilon)) is the coding rate; Z is
    centred, once, over all classes. At least 0 for balanced classes, and near
    0 if they do not differ; below 0 is possible for unbalanced ones. Unchanged
    by rotation and shift, but not by the scale of the features.
    Source: Huang et al. 2022, arXiv:2106.09362.

    Args:
        features: Z, `(n, d)`; maps are flattened.
        labels: integers `(n,)`, with or without gaps.
        epsilon: the distortion that the code allows, > 0, in squared units of
            the features.
    """
    z = centred(features)
    each = [
        _coding_rate(z[column > 0], epsilon) for column in _indicators(labels).T
    ]
    return float(_coding_rate(z, epsilon) - np.mean(each))


def centred(features):
    """Return float64 `(n, d)` whose columns have mean 0; maps are flattened.

    A constant column becomes 0 exactly, and not a rounding error that a scale
    could bring out again.
    """
    rows = _rows(features)
    rows = rows - rows[:1]
    return rows - rows.mean(axis=0)


def _rows(features):
    return np.asarray(features, "float64").reshape(len(features), -1)


def _indicators(labels):
    """Return one-hot `(n, K)` of the classes that occur: no empty column."""
    classes, rows = np.unique(labels, return_inverse=True)
    return np.eye(len(classes))[rows]


def _spectrum(rows):
    """Return the left singular vectors `(n, k)` and squared values, rank k."""
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    kept = s > max(rows.shape) * np.finfo("float64").eps * s[:1]
    return u[:, kept], s[kept] ** 2


def _log_evidence(squares, inside, rest, n):
    """Return log p(y given F) at the fixed point of alpha and beta.

    Args:
        squares: the squared singular values of F that are not 0, `(k,)`.
        inside: y's squared coordinates in their directions, `(k,)`.
        rest: y's squared norm in the other directions.
        n: the number of images.
    """

    def posterior(ratio):
        weights = np.sum(squares * inside / (squares + ratio) ** 2)
        errors = np.sum(inside * (ratio / (squares + ratio)) ** 2) + rest
        return weights, errors

    def round_of(ratio):
        """Return alpha and beta after one round of the iteration."""
        weights, errors = posterior(ratio)
        gamma = np.sum(squares / (squares + ratio))
        # n - gamma, without the difference of nearly equal numbers.
        free = n - len(squares) + np.sum(ratio / (squares + ratio))
        return gamma / (weights + 1e-5), free / (errors + 1e-5)

    def growth(log_ratio):
        alpha, beta = round_of(np.exp(log_ratio))
        return np.log(alpha / beta) - log_ratio

    # Features of zeros have no prior to weigh.
    ratio = np.exp(_root(growth)) if len(squares) else 1.0
    alpha, beta = round_of(ratio)
    weights, errors = posterior(ratio)
    # alpha^d / det(alpha I + beta F'F), where F's zero directions cancel.
    determinant = np.sum(np.log1p(squares / ratio))
    residual = beta * errors + alpha * weights
    return (n * np.log(beta / (2 * np.pi)) - determinant - residual) / 2


def _root(growth):
    """Return where `growth` is 0: the first place on the way that it points.

    From 0 on in steps of 1, then by halving the last of them. The iteration
    x + growth(x) tends to the same place, but may take thousands of rounds.

    Raises:
        KTransferError: `E_INVARIANT` if there is none within 500.
    """
    way = np.sign(growth(0.0))
    if not way:
        return 0.0
    low, width = _steps(growth, way), 1.0
    for _ in range(60):
        width /= 2
        if way * growth(way * (low + width)) > 0:
            low += width
    return way * low


def _steps(growth, way):
    """Return how many steps of 1 `growth` still points on."""
    low = 0.0
    while way * growth(way * (low + 1.0)) > 0:
        low += 1.0
        if low >= 500:
            raise KTransferError(
                "E_INVARIANT",
                "the evidence of the features has no fixed point.",
            )
    return low


def _ledoit_wolf(f, variances):
    """Return the shrinkage of least expected squared error, in [0, 1].

    Source: Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4.
    """
    mean = _mean(variances, f)
    zeros = f.shape[1] - len(variances)
    spread = np.sum((variances - mean) ** 2) + zeros * mean**2
    fourth = np.mean(np.sum(f**2, axis=1) ** 2)
    error = max(fourth - np.sum(variances**2), 0) / len(f)
    return min(error / spread, 1.0) if spread > 0 else 0.0


def _mean(variances, f):
    return np.sum(variances) / f.shape[1]


def _share(shrinkage):
    share = 0 if shrinkage is None else shrinkage
    if isinstance(share, str) or not 0 <= share <= 1:
        raise KTransferError(
            "E_ARGUMENT",
            f"shrinkage is {shrinkage!r}; expected None, 'ledoit-wolf' or a "
            "number from 0 to 1.",
        )
    return share


def _coding_rate(rows, epsilon):
    s = np.linalg.svd(rows, compute_uv=False)
    return np.sum(np.log1p(s**2 / (len(rows) * epsilon))) / 2


def _distributions(probabilities):
    """Return float64 rows that sum to 1 more exactly than float32 ones."""
    theta = np.asarray(probabilities, "float64")
    return theta / theta.sum(axis=1, keepdims=True)


def _class_balance(_, y):
    """Return the mean log frequency of the labels, -H(Y)."""
    return np.log(np.bincount(y)[y] / len(y)).mean()


def _shrunk_h_score(features, y):
    """Return the H-score that few images allow."""
    return h_score(features, y, "ledoit-wolf")


# A run's hash follows those that it asks for, so the table is literal.
SCORES = {
    "class_balance": _class_balance,
    "h_score": h_score,
    "leep": leep,
    "logme": logme,
    "nce": nce,
    "shrunk_h_score": _shrunk_h_score,
    "transrate": transrate,
}
