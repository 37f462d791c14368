"""Folders of image files, one folder a class, read as one problem.

`read` is for any folder: it fits images of all sizes, splits a test part off
where there is none, leaves out what is no image, and reports all that.
`read_plain` is for data that are read without a report: it refuses instead.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ktransfer import errors, files
from ktransfer.analysis.words import plain
from ktransfer.data import pictures
from ktransfer.data.division import divided
from ktransfer.data.image_report import (
    ImageReport,
    equal_images,
    listed_reasons,
)
from ktransfer.data.pictures import SUFFIXES, Picture, Unusable
from ktransfer.data.split import (
    Problem,
    Split,
    check_class_names,
    check_classes,
    checked_images,
    checked_labels,
    sha256,
)
from ktransfer.data.subsets import check_whole
from ktransfer.errors import KTransferError

# Folders that hold the test part, the first that is there.
TESTS = ("test", "val", "valid", "validation")
# Without a size that is asked for: images of one size up to the first keep it,
# and all others get at most the second.
KEPT, USUAL = 224, 96
LARGEST = 1024

_ELSEWHERE = "in no class folder"
_AROUND = "a link to a folder around it"
# What lies beside images without a word about them.
_HARMLESS = (pictures.HIDDEN, pictures.NOT_NAMED, pictures.FOLDER, _ELSEWHERE)
_ARCHIVERS = "__MACOSX"


class _File(NamedTuple):
    """An image file: its name below the folder, its place, part and class."""

    name: str
    path: str
    part: str
    label: str


class _Found(NamedTuple):
    """What lies in a folder, before an image is read.

    Fields:
        name: of the folder.
        root: of the training classes, below the folder.
        classes: the names of the training classes, sorted.
        files: all that may be images, by part, class and name.
        skipped: name -> reason of all else.
        split: whether there is a test part.
        notes: sentences on how the folder was understood.
    """

    name: str
    root: Path
    classes: list[str]
    files: list[_File]
    skipped: dict[str, str]
    split: bool
    notes: tuple[str, ...]


def read(
    folder: str | os.PathLike,
    image_size: int | tuple[int, int] | None = None,
    fit: str = "pad",
    test_share: float = 0.2,
    seed: int = 0,
) -> tuple[Problem, ImageReport]:
    """Return the `Problem` in a folder of images, and the report of it.

    Args, raises: see `images.load_images`.
    """
    _check_options(fit, test_share, seed)
    asked = None if image_size is None else _checked_size(image_size)
    found = _found(_checked_folder(folder))
    taken, size = _fitted(found, asked, fit)
    _check_all_classes(found, taken)
    x, y = _arrays(found, taken)
    keys = [sha256(image) for image in x]
    if found.split:
        in_test = _is_test(taken)
    else:
        in_test = divided(y.tolist(), keys, test_share, seed, found.classes)
        note = (
            f"the test part is {test_share:.3g} of each class, by seed {seed}"
        )
        found = found._replace(notes=(*found.notes, note))
    problem = _problem(found, x, y, in_test)
    return problem, _report(found, taken, keys, in_test, size, fit)


def read_plain(folder: Path) -> Problem:
    """Return the `Problem` in train/<class>/ and test/<class>/ of `folder`.

    Images keep their size, which must be one for all, and every image file
    must be readable.

    Raises:
        KTransferError: `E_IMAGES` for a file that is no image or of another
            size, `E_SUBSET` for a class without images or no test part,
            `E_LABELS` for a class of the test images that has no training
            images.
    """
    found = _found(folder)
    if not found.split:
        raise KTransferError(
            "E_SUBSET",
            f"{found.name} has no images in test/; expected a folder a class, "
            f"{found.name}/test/<class>/. Or have it split and packed: "
            "ktransfer images FOLDER --into NAME.npz",
        )
    taken: dict[_File, Picture] = {}
    for file in found.files:
        try:
            taken[file] = pictures.read(file.path, None, "pad")
        except Unusable as error:
            raise _unreadable(found, file.name, error) from error
    for name, reason in found.skipped.items():
        if reason not in _HARMLESS:
            raise _unreadable(found, name, reason)
    _check_all_classes(found, taken)
    _check_one_size(found, taken)
    x, y = _arrays(found, taken)
    return _problem(found, x, y, _is_test(taken))


# What is asked for


def _checked_folder(folder):
    if not isinstance(folder, str | os.PathLike) or not os.path.isdir(folder):
        raise KTransferError(
            "E_ARGUMENT",
            f"{plain(folder)!r} is no folder; expected one with a folder of "
            "images a class, such as photos/cat/1.jpg.",
        )
    return Path(os.path.abspath(folder))


def _check_options(fit, test_share, seed):
    if fit not in pictures.FITS:
        raise errors.unknown("fit", fit, pictures.FITS)
    share = isinstance(test_share, float | np.floating) and 0 < test_share < 1
    if not share:
        raise KTransferError(
            "E_ARGUMENT",
            f"test_share is {test_share!r}; expected a number between 0 and "
            "1, such as 0.2.",
        )
    check_whole("seed", seed, 0)


def _checked_size(image_size):
    """Return (height, width) of what was asked for, a side or both."""
    pair = isinstance(image_size, tuple | list) and len(image_size) == 2
    sides = image_size if pair else (image_size, image_size)
    for side in sides:
        check_whole("image_size", side, 1)
    if max(sides) > LARGEST:
        raise KTransferError(
            "E_ARGUMENT",
            f"image_size is {image_size!r}; expected one side or (height, "
            f"width), at most {LARGEST}.",
        )
    return tuple(map(int, sides))


# What is there


def _found(folder):
    """Return what is `_Found` in a folder; no file of it is opened.

    Raises:
        KTransferError: `E_SUBSET` without class folders, `E_LABELS` for names
            of classes that are none, or that the test part alone has.
    """
    train, test, notes = _layout(folder)
    skipped: dict[str, str] = {}
    if train != folder:
        _listed(folder, folder, "", skipped, but_folders=True)
    classes, in_train = _listed(folder, train, "train", skipped)
    tested, in_test = [], []
    if test:
        tested, in_test = _listed(folder, test, "test", skipped)
    for part, names in ((train, classes), *([(test, tested)] if test else [])):
        if not names:
            raise _no_classes(folder, part)
    check_class_names(classes, f"the class folders of {plain(folder.name)}")
    for name in sorted(set(tested) - set(classes)):
        raise KTransferError(
            "E_LABELS",
            f"{_below(folder, test)} has a class {name!r} that "
            f"{_below(folder, train)} has not; expected some of "
            f"{', '.join(classes)}.",
        )
    root, listed = train.relative_to(folder), in_train + in_test
    split = test is not None
    return _Found(folder.name, root, classes, listed, skipped, split, notes)


def _layout(folder):
    """Return the folders of training and test (or None), and notes on them.

    A folder `train` may be a class, too: it is when others lie beside it and
    none in it.
    """
    inside, train = _subfolders(folder), folder / "train"
    tests = [name for name in TESTS if name in inside]
    others = [name for name in inside if name not in ("train", *TESTS)]
    if "train" not in inside or (others and not _subfolders(train)):
        return folder, None, ()
    unread = tests[1:] + others
    notes = [f"not read: {', '.join(unread)}"] if unread else []
    if not tests:
        notes.append("beside train there is no folder test")
        return train, None, tuple(notes)
    own = "" if tests[0] == "test" else ", since there is none called test"
    notes.append(f"the test part is the folder {tests[0]}{own}")
    return train, folder / tests[0], tuple(notes)


def _subfolders(folder):
    return [
        entry.name
        for entry in _entries(folder)
        if os.path.isdir(entry.path) and not _is_hidden(entry.name)
    ]


def _entries(folder):
    """Return what a folder holds, by name; nothing where it is closed."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:
        return []


def _is_hidden(name):
    return name.startswith(".") or name == _ARCHIVERS


def _listed(folder, root, part, skipped, but_folders=False):
    """Return the classes in `root` and their files; add what is `skipped`."""
    classes, listed = [], []
    for entry in _entries(root):
        place = Path(entry.path).relative_to(folder).as_posix()
        if _is_hidden(entry.name):
            skipped[place] = pictures.HIDDEN
        elif not os.path.isdir(entry.path):
            skipped[place] = _ELSEWHERE
        elif _is_around(entry.path, root):
            skipped[place] = _AROUND
        elif not but_folders:
            classes.append(entry.name)
            listed += _images(place, entry, part, skipped)
    return classes, listed


def _is_around(path, root):
    """Tell whether a link leads to `root` or to a folder that it lies in."""
    real, inner = Path(os.path.realpath(path)), os.path.realpath(root)
    return Path(inner).is_relative_to(real)


def _images(place, folder, part, skipped):
    """Return the image files of one class; add all else to `skipped`."""
    found = []
    for entry in _entries(folder.path):
        name = f"{place}/{entry.name}"
        try:
            pictures.check_entry(entry.name, entry.path)
        except Unusable as reason:
            skipped[name] = str(reason)
        else:
            found.append(_File(name, entry.path, part, folder.name))
    return found


def _no_classes(folder, part):
    within = "" if part == folder else f" in {part.name}/"
    return KTransferError(
        "E_SUBSET",
        f"{plain(folder.name)} has no images{within}; expected a folder a "
        f"class, {_below(folder, part)}/<class>/, with images in it.",
    )


def _below(folder, part):
    return plain(Path(folder.name) / part.relative_to(folder))


# Reading


def _fitted(found, size, fit):
    """Return file -> `Picture` of all that can be read, and their size.

    What cannot be read has no say in the size, so that it is read again
    where it had.
    """
    headers = _attempt(found, found.files, pictures.size)
    chosen: tuple[int, int] | None = None
    taken: dict[_File, Picture] = {}
    while headers and chosen != (size or _usual_size(headers.values())):
        chosen = size or _usual_size(headers.values())
        _check_memory(len(headers), chosen)
        reader = functools.partial(pictures.read, fitted_to=chosen, fit=fit)
        taken = _attempt(found, headers, reader)
        headers = {file: headers[file] for file in taken}
    return taken, chosen


def _attempt(found, candidates, reader: Callable):
    """Return file -> what `reader` makes of it; failures are `skipped`."""
    taken = {}
    for file in candidates:
        try:
            taken[file] = reader(file.path)
        except Unusable as reason:
            found.skipped[file.name] = str(reason)
        except MemoryError as error:
            raise KTransferError(
                "E_MEMORY",
                f"out of memory at {plain(file.name)}; ask for a smaller "
                "image size, or take it out.",
            ) from error
    return taken


def _usual_size(sizes):
    """Return (height, width) for images of which no size was asked."""
    sizes = list(sizes)
    if len(set(sizes)) == 1 and max(sizes[0]) <= KEPT:
        return sizes[0]
    side = min(round(float(np.median([min(size) for size in sizes]))), USUAL)
    return (side, side)


def _check_memory(count, size):
    # The images, once as they are read and once as an array.
    needed = 2 * 3 * count * size[0] * size[1]
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise KTransferError(
            "E_MEMORY",
            f"{count:,} images of {size[0]} x {size[1]} take "
            f"{needed / 2**30:.0f} GiB, and there are {there / 2**30:.0f}; "
            "ask for a smaller image size.",
        )


def _arrays(found, taken):
    """Return images uint8 (n, h, w, c), c of 1 where all are grey, and labels.

    The labels are (n,).
    """
    where = {name: label for label, name in enumerate(found.classes)}
    labels = np.array([where[file.label] for file in taken])
    pixels = [picture.pixels for picture in taken.values()]
    channels = 3 if any(image.ndim == 3 for image in pixels) else 1
    images = np.empty((len(pixels), *pixels[0].shape[:2], channels), "uint8")
    for row, image in zip(images, pixels):
        row[:] = image if image.ndim == 3 else image[..., None]
    return images, labels


def _is_test(taken):
    return np.array([file.part == "test" for file in taken])


def _check_all_classes(found, taken):
    """Refuse a class without a training image, and a test part without one."""
    read = {file.label for file in taken if file.part == "train"}
    for name in found.classes:
        if name not in read:
            place = (found.root / name).as_posix()
            reasons = _by_reason(found.skipped, f"{place}/")
            why = "; ".join(listed_reasons(reasons)) or "nothing is in it"
            raise KTransferError(
                "E_SUBSET",
                f"{plain(found.name)}/{plain(place)} holds no image that can "
                f"be read ({why}); expected files ending in "
                f"{', '.join(SUFFIXES)}. Add some, or remove the folder.",
            )
    if found.split and not any(file.part == "test" for file in taken):
        raise KTransferError(
            "E_SUBSET",
            f"{plain(found.name)} has no images in its test part that can be "
            "read; expected some. Add them, or remove that folder.",
        )


def _check_one_size(found, taken):
    first = next(iter(taken.values())).size
    for file, picture in taken.items():
        if picture.size != first:
            height, width = picture.size
            raise KTransferError(
                "E_IMAGES",
                f"{plain(found.name)}/{plain(file.name)} has {width} x "
                f"{height} pixels, the first image {first[1]} x {first[0]}; "
                "expected one size for all. Resize them, or have them fitted "
                "and packed: ktransfer images FOLDER --into NAME.npz",
            )


def _unreadable(found, name, reason):
    return KTransferError(
        "E_IMAGES",
        f"{plain(found.name)}/{plain(name)} cannot be read as an image "
        f"({reason}); expected a whole file of {', '.join(SUFFIXES)}. Replace "
        "or remove it.",
    )


# The parts


def _problem(found, x, y, in_test):
    """Return the checked `Problem`; training images come first, in order."""
    train, test = [
        Split(
            checked_images(x[rows], f"{plain(found.name)}/{part}"),
            checked_labels(y[rows], int(rows.sum()), part),
        )
        for part, rows in (("train", ~in_test), ("test", in_test))
    ]
    check_classes(train.y, plain(found.name))
    content = sha256(*train, *test)[:8]
    origin = f"folder {plain(found.name)} (sha256 {content})"
    return Problem(train, test, None, tuple(found.classes), origin)


def _report(found, taken, keys, in_test, size, fit):
    labels = [file.label for file in taken]
    parts = ["test" if held else "train" for held in in_test]
    where = Counter(zip(labels, parts))
    kinds = Counter(picture.pixels.ndim for picture in taken.values())
    return ImageReport(
        folder=found.name,
        classes={
            name: (where[name, "train"], where[name, "test"])
            for name in found.classes
        },
        skipped=_by_reason(found.skipped),
        sizes=dict(Counter(picture.size for picture in taken.values())),
        image_size=size,
        fit=fit,
        grey=kinds[2],
        colour=kinds[3],
        split_made=not found.split,
        notes=found.notes,
        manifest=_manifest(taken),
        **equal_images(keys, [file.name for file in taken], labels, parts),
    )


def _by_reason(skipped, start=""):
    """Return reason -> sorted names of what was left out below `start`."""
    found: dict[str, tuple[str, ...]] = {}
    for name, reason in sorted(skipped.items()):
        if name.startswith(start):
            found[reason] = (*found.get(reason, ()), name)
    return found


def _manifest(taken):
    lines = [f"{file.name}\0{p.sha256}\n" for file, p in taken.items()]
    text = "".join(sorted(lines))
    # A name need not be text of any encoding.
    return files.sha256(text.encode("utf-8", "surrogateescape"))
