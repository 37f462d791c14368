"""What moved: how alike two representations are, and two sets of weights.

Pure NumPy, in float64. Keras is imported only for models.
"""

from collections.abc import Mapping

import numpy as np

from ktransfer.errors import KTransferError
from ktransfer.measures.transferability import centred


def cka(x, y, unbiased=False):
    """Return the linear centred kernel alignment of two representations.

    ||Y'X||^2 / (||X'X|| ||Y'Y||) for centred columns: from 0 to 1, and 1 for
    representations that differ by a rotation, a scale and a shift. It rises
    towards 1 when there are few images for the features; the unbiased form,
    for n below about 10 d, is 0 on average for independent ones, and lies
    from -1 to 1. 0 for a representation in which nothing varies.

    A map is flattened: every position counts. Give its mean over positions to
    compare channels.
    Source: Kornblith et al. 2019, arXiv:1905.00414; the unbiased estimate of
    the three terms, Song et al. 2012, Journal of Machine Learning Research 13.

    Args:
        x, y: `(n, ...)`, the same n images in the same order.
        unbiased: whether to take the unbiased form, which needs 4 images.

    Raises:
        KTransferError: `E_ARGUMENT` for other numbers of images.
    """
    x, y = centred(x), centred(y)
    if len(x) != len(y) or (unbiased and len(x) < 4):
        raise KTransferError(
            "E_ARGUMENT",
            f"the representations are of {len(x)} and {len(y)} images; "
            "expected the same images, at least 4 for the unbiased form.",
        )
    norms = _alignment(x, x, unbiased) * _alignment(y, y, unbiased)
    if norms <= 0:
        return 0.0
    return float(_alignment(x, y, unbiased) / np.sqrt(norms))


def weight_distance(target, source):
    """Return ||W_t - W_s|| / ||W_s|| by block, in the order of `target`.

    No unit; 0 for a block that did not move, infinite for one that left 0.
    BatchNorm's statistics count as weights, so that a frozen block that
    drifts shows. A block that only one of the two has, or that has other
    shapes there (the heads of two tasks), is left out.
    Source: ours.

    Args:
        target: a Keras model, or a dictionary: name -> array or list of
            arrays, whose names are then the blocks.
        source: the same, before the transfer.

    Returns:
        dictionary: name of the block -> distance >= 0.

    Raises:
        KTransferError: `E_ARGUMENT` if no block can be compared.
    """
    return _distances(_by_block(target), _by_block(source))


def moved_layers(target, source):
    """Return the names of the layers whose weights differ, in graph order.

    As `weight_distance`, by layer: those at a distance above 0, or one that
    is not a number.
    Source: ours.

    Args:
        target, source: as in `weight_distance`.

    Returns:
        list of names.

    Raises:
        KTransferError: `E_ARGUMENT` if no layer can be compared.
    """
    distances = _distances(_by_layer(target), _by_layer(source))
    return [name for name, distance in distances.items() if distance != 0]


def _alignment(x, y, unbiased):
    """Return ||Y'X||^2, or n (n - 3) times the unbiased HSIC of X and Y."""
    n = len(x)
    if n * n < x.shape[1] * y.shape[1]:
        value = np.vdot(x @ x.T, y @ y.T)
    else:
        value = np.sum((y.T @ x) ** 2)
    a, b = np.sum(x**2, axis=1), np.sum(y**2, axis=1)
    mass = np.sum(a) * np.sum(b)
    if unbiased:
        # Song's formula for the Gram matrices of centred columns without
        # their diagonals a and b.
        value += mass / ((n - 1) * (n - 2)) - n / (n - 2) * (a @ b)
    # What is left of a difference of equal numbers must not be divided by.
    return value if abs(value) > 1e-12 * mass else 0.0


def _by_block(weights):
    if isinstance(weights, Mapping):
        return _as_lists(weights)
    return _values(_blocks(weights))


def _by_layer(weights):
    if isinstance(weights, Mapping):
        return _as_lists(weights)
    named: dict[str, list] = {}
    for layers in _blocks(weights).values():
        for layer in layers:
            named.setdefault(layer.name, []).append(layer)
    return _values(named)


def _blocks(model):
    from ktransfer.models.blocks import blocks

    return blocks(model)


def _as_lists(weights):
    return {
        name: value if isinstance(value, list | tuple) else [value]
        for name, value in weights.items()
    }


def _values(grouped):
    return {
        name: [v.numpy() for layer in layers for v in layer.weights]
        for name, layers in grouped.items()
    }


def _distances(target, source):
    """Return the relative distances of two dictionaries of lists of arrays."""
    shared = {
        name: _relative(arrays, source[name])
        for name, arrays in target.items()
        if name in source and _shapes(arrays) == _shapes(source[name])
    }
    if not shared:
        raise KTransferError(
            "E_ARGUMENT",
            f"nothing to compare: {', '.join(target)} and "
            f"{', '.join(source)} share no name with equal shapes.",
        )
    return shared


def _shapes(arrays):
    return [np.shape(array) for array in arrays]


def _relative(after, before):
    after, before = _flat(after), _flat(before)
    moved, size = np.linalg.norm(after - before), np.linalg.norm(before)
    if size == 0:
        return float("inf") if moved > 0 else float(moved)
    return float(moved / size)


def _flat(arrays):
    return np.concatenate([np.ravel(a).astype("float64") for a in arrays])
