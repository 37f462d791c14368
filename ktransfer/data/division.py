"""A test part, split off labelled images class by class.

Images of equal pixels stay together: a test image that is a training image
measures memory. Which images are taken rests on the seed and their pixels, and
not on their names or their order.
"""

import hashlib
from collections import Counter
from typing import NamedTuple

import numpy as np

from ktransfer import seeds
from ktransfer.errors import KTransferError


def divided(
    labels: list[int],
    keys: list[str],
    share: float,
    seed: int,
    names: list[str],
) -> np.ndarray:
    """Return which images are for the test, a mask (n,).

    Each class gives its `share`, rounded, at least one image and not all; a
    little less where equal images leave no other way.

    Args:
        labels: n whole numbers, 0..K-1.
        keys: n texts, equal where the pixels are.
        share: of the test part, between 0 and 1, both excluded.
        seed: a whole number from 0.
        names: of the K classes, for messages.

    Raises:
        KTransferError: `E_SUBSET` for a class that cannot be divided.
    """
    _check_two_of_each(labels, keys, names)
    groups = _groups(labels, keys, seed)
    counts = Counter(labels)
    wanted = {
        k: min(max(int(n * share + 0.5), 1), n - 1) for k, n in counts.items()
    }
    given: Counter = Counter()
    mask = np.zeros(len(labels), bool)

    def take(group):
        given.update(group.members)
        mask[group.rows] = True

    for group in groups:
        if _fits(group, given, wanted):
            take(group)
    for label in counts:
        if not given[label]:
            # All its groups are larger than its share.
            take(_smallest(label, groups, given, counts, names))
    return mask


class _Group(NamedTuple):
    """Rows of equal images, and how many of them each class has."""

    rows: list[int]
    members: Counter


def _groups(labels, keys, seed):
    """Return the groups of equal images, in an order of the seed."""
    start = str(seeds.stream(seed, "test part"))
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)

    def rank(key):
        return hashlib.sha256(f"{start} {key}".encode()).digest()

    return [
        _Group(rows[key], Counter(labels[row] for row in rows[key]))
        for key in sorted(rows, key=rank)
    ]


def _fits(group, given, most):
    """Tell whether no class of a group gets more than its `most` by it."""
    return all(given[k] + n <= most[k] for k, n in group.members.items())


def _smallest(label, groups, given, counts, names):
    """Return the smallest group of a class that leaves all some training."""
    most = {k: n - 1 for k, n in counts.items()}
    able = [g for g in groups if label in g.members and _fits(g, given, most)]
    if not able:
        raise KTransferError(
            "E_SUBSET",
            f"class {names[label]!r} cannot be split: its images are equal to "
            "those of other classes, and equal images must stay together. "
            "Remove them where they do not belong.",
        )
    return min(able, key=lambda group: len(group.rows))


def _check_two_of_each(labels, keys, names):
    counts = Counter(labels)
    different = Counter(label for label, _ in set(zip(labels, keys)))
    for label, name in enumerate(names):
        if different[label] < 2:
            found = "1 image"
            if counts[label] > 1:
                found = f"{counts[label]} images, all with equal pixels"
            raise KTransferError(
                "E_SUBSET",
                f"class {name!r} has {found}; expected at least two that "
                "differ, one to train and one to test. Add some, or remove "
                "its folder.",
            )
