"""A test part, split off labelled images class by class.

Images of equal pixels stay together: a test image that is a training image
measures memory. Which images are taken rests on the seed and their pixels, and
not on their names or their order.
"""

import hashlib

import numpy as np

from ktransfer import seeds
from ktransfer.errors import KTransferError


def divided(
    labels: np.ndarray,
    keys: list[str],
    share: float,
    seed: int,
    names: list[str],
) -> np.ndarray:
    """Return which images are for the test, a mask (n,).

    Each class gives its `share`, rounded, at least one image and not all; a
    little less where equal images leave no other way.

    Args:
        labels: whole numbers (n,), 0..K-1.
        keys: n texts, equal where the pixels are.
        share: of the test part, between 0 and 1, both excluded.
        seed: a whole number from 0.
        names: of the K classes, for messages.

    Raises:
        KTransferError: `E_SUBSET` for a class that cannot be divided.
    """
    _check_two_of_each(labels, keys, names)
    groups = _groups(labels, keys, seed, len(names))
    counts = np.bincount(labels, minlength=len(names))
    wanted = np.clip(np.floor(counts * share + 0.5).astype(int), 1, counts - 1)
    given, mask = np.zeros_like(counts), np.zeros(len(labels), bool)

    def take(group):
        nonlocal given
        given = given + group[1]
        mask[group[0]] = True

    for group in groups:
        if _fits(group, given, wanted):
            take(group)
    for label in range(len(names)):
        if not given[label]:
            # All its groups are larger than its share.
            take(_smallest(label, groups, given, counts, names))
    return mask


def _groups(labels, keys, seed, num_classes):
    """Return (rows, images a class) of equal images, ranked by the seed."""
    start = str(seeds.stream(seed, "test part"))
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    ranked = sorted(
        rows, key=lambda key: hashlib.sha256(f"{start} {key}".encode()).digest()
    )
    return [
        (rows[key], np.bincount(labels[rows[key]], minlength=num_classes))
        for key in ranked
    ]


def _fits(group, given, most):
    """Tell whether no class of a group gets more than `most` by it."""
    members = group[1]
    return bool(np.all((given + members <= most) | (members == 0)))


def _smallest(label, groups, given, counts, names):
    """Return the smallest group of a class that leaves all some training."""
    able = [
        group
        for group in groups
        if group[1][label] and _fits(group, given, counts - 1)
    ]
    if not able:
        raise KTransferError(
            "E_SUBSET",
            f"class {names[label]!r} cannot be split: its images are equal to "
            "those of other classes, and equal images must stay together. "
            "Remove them where they do not belong.",
        )
    return min(able, key=lambda group: len(group[0]))


def _check_two_of_each(labels, keys, names):
    for label, name in enumerate(names):
        own = [keys[row] for row in np.flatnonzero(labels == label)]
        if len(set(own)) < 2:
            equal = " of equal pixels" if len(own) > 1 else ""
            raise KTransferError(
                "E_SUBSET",
                f"class {name!r} has {len(own)} image"
                f"{'s' if len(own) > 1 else ''}{equal}; expected at least two "
                "that differ, one to train and one to test. Add some, or "
                "remove its folder.",
            )
