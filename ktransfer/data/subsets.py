"""Parts of a split: few labels a class, a validation part, some classes.

Images are ranked by a sha256 over the seed and their own pixels. What is drawn
therefore depends on the seed and the images alone, and not on the order of the
rows, the machine or the version of NumPy.
"""

import hashlib

import numpy as np

from ktransfer import seeds
from ktransfer.data.split import Split, read_only
from ktransfer.errors import KTransferError


def subset(
    split: Split,
    labels_per_class: int,
    seed: int,
    ranked: np.ndarray | None = None,
) -> Split:
    """Return `labels_per_class` images of each class, in an order of the seed.

    Nested: for one seed, the images for 5 are among those for 10. The same
    for every order of the rows of `split`.

    Args:
        split: the labelled images.
        labels_per_class: a whole number from 1.
        seed: of the choice.
        ranked: `ranking(split, seed)`, where it is known already.

    Raises:
        KTransferError: `E_SUBSET` with the counts when a class has fewer,
            `E_ARGUMENT` for a number that is not a whole one from 1.
    """
    check_whole("labels_per_class", labels_per_class, 1)
    counts = np.bincount(split.y)
    if counts.min() < labels_per_class:
        listed = ", ".join(f"{k}: {n}" for k, n in enumerate(counts))
        raise KTransferError(
            "E_SUBSET",
            f"{labels_per_class} labels per class were asked for, but class "
            f"{counts.argmin()} has {counts.min()} images (images by class: "
            f"{listed}). Ask for at most {counts.min()}.",
        )
    if ranked is None:
        ranked = ranking(split, seed)
    return _rows(
        split, ranked[_place_in_class(split.y[ranked]) < labels_per_class]
    )


def ranking(split: Split, seed: int) -> np.ndarray:
    """Return all rows of `split` in the order in which `subset` takes them."""
    return _ranked(split, seed, "subset")


def validation_split(
    split: Split, share: float = 0.2, seed: int = 0
) -> tuple[Split, Split]:
    """Cut `split` into a training and a validation part, class by class.

    Each class gives its `share` to validation, rounded to a whole image; where
    it has two images or more, both parts get at least one, and a single image
    stays in training. Both parts are the same for every order of the rows.

    Args:
        split: the labelled images that may be used for training.
        share: of the validation part, between 0 and 1, both excluded.
        seed: a whole number from 0.

    Returns:
        (training, validation), two `Split`s whose union is `split`.
    """
    if not isinstance(share, float) or not 0 < share < 1:
        raise KTransferError(
            "E_ARGUMENT",
            f"share is {share!r}; expected a number between 0 and 1, such as "
            "0.2.",
        )
    ranked = _ranked(split, seed, "validation")
    labels = split.y[ranked]
    counts = np.bincount(split.y)
    wanted = np.floor(counts * share + 0.5).astype(int)
    wanted = np.clip(wanted, 1, np.maximum(counts - 1, 0))
    validation = _place_in_class(labels) < wanted[labels]
    return _rows(split, ranked[~validation]), _rows(split, ranked[validation])


def keep_classes(split: Split, classes: tuple[int, ...]) -> Split:
    """Return the images of `classes`, relabelled 0, 1, ... in that order.

    The rows keep their order.
    """
    num_labels = max(*classes, int(split.y.max())) + 1
    new_labels = np.full(num_labels, -1, "int32")
    new_labels[list(classes)] = np.arange(len(classes))
    labels = new_labels[split.y]
    rows = np.flatnonzero(labels >= 0)
    return Split(read_only(split.x[rows]), read_only(labels[rows]))


def _ranked(split, seed, purpose):
    """Return all rows, ordered by a hash of seed, purpose and pixels.

    Equal images of two classes are told apart by their label.
    """
    check_whole("seed", seed, 0)
    start = hashlib.sha256(str(seeds.stream(seed, purpose)).encode())
    keys = []
    for image, label in zip(split.x, split.y.tolist(), strict=True):
        key = start.copy()
        key.update(np.ascontiguousarray(image).data)
        keys.append((key.digest(), label))
    return np.array(sorted(range(len(keys)), key=keys.__getitem__))


def _place_in_class(labels):
    """Return for each label how many equal ones stand before it."""
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(np.bincount(labels)) - np.bincount(labels)
    places = np.empty(len(labels), int)
    places[order] = np.arange(len(labels)) - starts[labels[order]]
    return places


def _rows(split, rows):
    return Split(read_only(split.x[rows]), read_only(split.y[rows]))


def check_whole(name, value, least):
    """Refuse, with `E_ARGUMENT`, what is no whole number from `least`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise KTransferError(
            "E_ARGUMENT",
            f"{name} is {value!r}; expected a whole number from {least}.",
        )
