"""What was found in a folder of images: counts, sizes, doubles, and advice."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ktransfer.analysis.words import count, plain

# From how many times as many images on the classes are said to differ.
IMBALANCED = 3.0
# Names, sizes and classes that a line or a table shows.
_FEW, _ROWS = 3, 40
WIDTH = 80


class ImageReport(NamedTuple):
    """What `load_images` read, left out and noticed.

    Names of files are those below the folder, `cat/1.png`. A group is a tuple
    of names of images whose pixels are equal once decoded and fitted.

    Fields:
        folder: its name, without the path to it.
        classes: class -> (training images, test images).
        skipped: reason -> names of what was left out for it.
        sizes: (height, width) -> images that had it, upright.
        image_size: (height, width) that all have now.
        fit: "pad", "crop" or "stretch".
        grey, colour: images of each kind.
        split_made: whether the test part was split off here; then no group
            is on both sides.
        notes: sentences on how the folder was understood.
        equal_within: groups inside a class.
        equal_across_classes: groups that have more than one label.
        equal_across_parts: groups of training and test images.
        manifest: sha256 of the names and contents of the files read.
    """

    folder: str
    classes: dict[str, tuple[int, int]]
    skipped: dict[str, tuple[str, ...]]
    sizes: dict[tuple[int, int], int]
    image_size: tuple[int, int]
    fit: str
    grey: int
    colour: int
    split_made: bool
    notes: tuple[str, ...]
    equal_within: tuple[tuple[str, ...], ...]
    equal_across_classes: tuple[tuple[str, ...], ...]
    equal_across_parts: tuple[tuple[str, ...], ...]
    manifest: str

    @property
    def num_read(self) -> int:
        """Images that were read."""
        return self.grey + self.colour

    @property
    def num_skipped(self) -> int:
        """Files and folders that were left out."""
        return sum(map(len, self.skipped.values()))

    @property
    def missing_from_test(self) -> tuple[str, ...]:
        """Classes without a test image."""
        return tuple(name for name, (_, n) in self.classes.items() if not n)

    @property
    def imbalance(self) -> float:
        """Training images of the largest class, per one of the smallest."""
        counts = [number for number, _ in self.classes.values()]
        return max(counts) / min(counts)

    def lines(self) -> list[str]:
        """Return the report as lines for the terminal."""
        above = [*_read_lines(self), *_size_lines(self), *self.notes]
        below = [
            *_equal_lines(self),
            *_advice(self),
            f"sha256 of the names and contents of all files {self.manifest}",
        ]
        return [*_wrapped(above), *_class_lines(self.classes), *_wrapped(below)]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def equal_images(
    keys: Sequence[str],
    names: Sequence[str],
    labels: Sequence[str],
    parts: Sequence[str],
) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return the groups of equal images, by the name of their field.

    Args:
        keys: of each image, equal where their pixels are.
        names, labels, parts: of each image.
    """
    within, across_classes = _groups(keys, names, labels)
    _, across_parts = _groups(keys, names, parts)
    return {
        "equal_within": within,
        "equal_across_classes": across_classes,
        "equal_across_parts": across_parts,
    }


def _groups(keys, names, kinds):
    """Return the groups inside one kind, and those of several kinds."""
    found: dict[str, dict[str, list[str]]] = {}
    for key, name, kind in zip(keys, names, kinds, strict=True):
        found.setdefault(key, {}).setdefault(kind, []).append(name)
    inside = [
        tuple(members)
        for group in found.values()
        for members in group.values()
        if len(members) > 1
    ]
    across = [
        tuple(name for members in group.values() for name in members)
        for group in found.values()
        if len(group) > 1
    ]
    return tuple(inside), tuple(across)


def some(names: Iterable[str], most: int = _FEW) -> str:
    """Return the first few `names`, and of how many they are."""
    names = [plain(name) for name in names]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def listed_reasons(skipped: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return `2 damaged, or no image: a.png, b.png` for each reason."""
    return [
        f"{len(names):,} {reason}: {some(names)}"
        for reason, names in skipped.items()
    ]


def _wrapped(lines):
    return [
        part
        for line in lines
        for part in textwrap.wrap(
            line, WIDTH, subsequent_indent="    ", break_long_words=False
        )
    ]


def _read_lines(report):
    read = count(report.num_read, "image")
    classes = f"{len(report.classes):,} classes"
    skipped = f"{report.num_skipped:,} left out"
    return [
        f"{plain(report.folder)}: {read} read, {classes}; {skipped}",
        *(f"  {line}" for line in listed_reasons(report.skipped)),
    ]


def _size_lines(report):
    height, width = report.image_size
    smallest = min(report.sizes, key=_area)
    largest = max(report.sizes, key=_area)
    seen = f"{smallest[0]} x {smallest[1]}"
    if len(report.sizes) > 1:
        seen = (
            f"{len(report.sizes):,} sizes, from {seen} to {largest[0]} x "
            f"{largest[1]}"
        )
    fitted = report.num_read - report.sizes.get(report.image_size, 0)
    now = f"all are {height} x {width} now"
    if fitted:
        now += f", {fitted:,} of them by {report.fit}"
    kinds = f"{report.colour:,} in colour, {report.grey:,} grey"
    if report.colour and report.grey:
        kinds += ", which are RGB now"
    return [f"height x width: {seen}; {now}", f"pixels: {kinds}"]


def _area(size):
    return size[0] * size[1], size


def _class_lines(classes):
    shown = list(classes.items())[:_ROWS]
    wide = max(len("class"), *(len(plain(name)) for name, _ in shown))
    lines = [f"{'class':<{wide}}   train    test"]
    for name, (train, test) in shown:
        lines.append(f"{plain(name):<{wide}} {train:>7,} {test:>7,}")
    if others := len(classes) - len(shown):
        lines.append(f"... and {others:,} more classes")
    return lines


def _equal_lines(report):
    kinds = {
        "inside a class": report.equal_within,
        "with different labels": report.equal_across_classes,
        "in training and test": report.equal_across_parts,
    }
    lines = []
    for what, groups in kinds.items():
        if groups:
            images = sum(map(len, groups))
            examples = some([" = ".join(group[:_FEW]) for group in groups], 2)
            lines.append(f"{images:,} equal images {what}: {examples}")
    return lines or ["no equal images"]


def _advice(report):
    lines = []
    if report.equal_across_parts:
        lines.append(
            "the test accuracy will be too high: take the equal images out "
            "of the training part"
        )
    if report.equal_across_classes:
        lines.append(
            "no model can be right on equal images of different labels: "
            "remove them, or relabel them"
        )
    if missing := report.missing_from_test:
        lines.append(
            f"no test image of {some(missing)}: nothing is known of the "
            "accuracy there; add some"
        )
    if report.imbalance >= IMBALANCED:
        least = min(number for number, _ in report.classes.values())
        lines.append(
            f"the largest class has {report.imbalance:.1f} times the images "
            "of the smallest: judge by the balanced accuracy, or take at most "
            f"{least:,} labels per class"
        )
    return lines
