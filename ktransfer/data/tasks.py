"""Tasks by name: which data, which classes, how many labels.

A name is that of a data set, or that of a data set and of some of its classes:
`mnist`, `mnist_5to9`, `mnist_0_3_7`, `cifar10_animals`. A domain shift comes
last (see `shifts`): `mnist_5to9_inverted`, `mnist_over_cifar10`. The test split
lives apart from the task, so that a method that is handed a `Task` has no test
data.
"""

import contextlib
import contextvars
import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ktransfer import errors
from ktransfer.data import (
    archives,
    digits_8x8,
    glyphs,
    own_data,
    shifts,
    subsets,
)
from ktransfer.data.split import Problem, Split, as_pixels, sha256
from ktransfer.data.subsets import keep_classes, subset
from ktransfer.errors import KTransferError

_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
_CLASS = r"(0|[1-9][0-9]{0,3})"
_RANGE = re.compile(rf"{_CLASS}to{_CLASS}")
_LIST = re.compile(rf"{_CLASS}(_{_CLASS})*")
_SHIFT = re.compile(rf"(.+)_({'|'.join(shifts.PLAIN)})")
_OVER = re.compile(r"(.+?)_(varied_over|over)_(.+)")
_EMBEDDED = {
    "digits": tuple(range(10)),
    "letters": tuple(glyphs.LETTERS),
    "digits_8x8": tuple(range(10)),
}
_NAMED = {
    ("cifar10", "animals"): (2, 3, 4, 5, 6, 7),
    ("cifar10", "vehicles"): (0, 1, 8, 9),
}
_SEALED = contextvars.ContextVar("sealed", default=False)

# Data sets whose labels mean the same; every other has its own.
_LABEL_SPACES = {name: "digits" for name in ("digits", "digits_8x8", "mnist")}


class _Task(NamedTuple):
    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    train: Split
    unlabelled: np.ndarray | None
    origin: str
    sha256: str
    labels: tuple
    label_space: str = ""


class Task(_Task):
    """One classification problem, without its test split.

    Fields:
        name: as it was loaded.
        num_classes: K; the labels are 0..K-1.
        image_shape: (height, width, channels).
        train: the labelled training images, a `Split`.
        unlabelled: uint8 images of the same shape, or None.
        origin: where the images come from, for figures and records.
        sha256: of the arrays of `train` and `unlabelled`.
        labels: the K original labels in the order of the new ones.
        label_space: what the labels mean. Two tasks have the same classes
            only if both `labels` and `label_space` agree: a 3 of MNIST is no
            3 of CIFAR-10. "", in a task made by hand, agrees with nothing.

    Raises:
        KTransferError: `E_IMAGES` for images that are no pixels from 0 to 255.
    """

    __slots__ = ()

    def __new__(cls, *values: Any, **fields: Any) -> "Task":
        task = super().__new__(cls, *values, **fields)
        train, unlabelled = task.train, task.unlabelled
        if unlabelled is not None:
            unlabelled = as_pixels(unlabelled, f"unlabelled of {task.name}")
        # Of a user's model the images that it was trained on are not there.
        if isinstance(train, Split) and train.x is not None:
            x = as_pixels(train.x, f"train.x of {task.name}")
            train = train._replace(x=x)
        return task._replace(train=train, unlabelled=unlabelled)


class _Place(NamedTuple):
    """Where a name leads; `path` is None for what packages carry.

    `shifts` are pairs in the order they are applied: a kind, and the place of
    its backgrounds or None.
    """

    base: str
    path: Path | None
    classes: tuple[int, ...] | None
    shifts: "tuple[tuple[str, _Place | None], ...]" = ()


def load(name: str, labels_per_class: int | None = None, seed: int = 0) -> Task:
    """Return the `Task` called `name`.

    Args:
        name: see `names`, and the module's first lines for classes.
        labels_per_class: keep so many labelled images of each class; None
            keeps all. The choice is nested and rests on `seed`.
        seed: a whole number from 0.

    Raises:
        KTransferError: `E_ARGUMENT` or `E_UNKNOWN` for the name, `E_IMAGES`,
            `E_LABELS`, `E_SUBSET` or `E_DATA_HASH` for the data, `E_OFFLINE`
            where it would have to be fetched and cannot be.
    """
    task = _whole_task(name, _place(name))
    if labels_per_class is None:
        return task
    # Checked before the ranks are looked up, since 1 == 1.0 == True.
    subsets.check_whole("seed", seed, 0)
    ranked = _ranking(_place(name), int(seed))
    train = subset(task.train, labels_per_class, seed, ranked)
    return task._replace(train=train, sha256=_task_hash(train, task.unlabelled))


def test_split(name: str) -> Split:
    """Return the test `Split` of the task `name`; only evaluation calls this.

    Raises:
        KTransferError: `E_INVARIANT` inside `sealed`, else as `load`.
    """
    if _SEALED.get():
        raise KTransferError(
            "E_INVARIANT",
            f"a method may not open the test split (of {name!r}); expected "
            "only evaluation to do so. Cut a part off target.train instead, "
            "with data.validation_split.",
        )
    return _problem(_place(name)).test


# pytest would take it for a test wherever a test module imports it by name.
test_split.__test__ = False  # type: ignore[attr-defined]


@contextlib.contextmanager
def sealed():
    """Refuse `test_split` inside the `with` block, in this thread or task."""
    token = _SEALED.set(True)
    try:
        yield
    finally:
        _SEALED.reset(token)


def digest(name: str) -> str:
    """Return the sha256 of all arrays of `name`, training and test.

    It is computed once a process, and allowed inside `sealed`: a hash tells
    nothing about the images.
    """
    return _digest(_place(name))


def classes(name: str) -> tuple[tuple, str]:
    """Return what the labels of `name` mean: (`labels`, `label_space`).

    Two tasks of equal arrays differ if only one has the source's classes.
    """
    place = _place(name)
    return _problem(place).labels, _label_space(place)


def check_name(name: str) -> None:
    """Check a `name` without reading an image.

    Raises:
        KTransferError: `E_ARGUMENT` for one that breaks the grammar or that
            the user gave to data beside the embedded ones, `E_UNKNOWN` for one
            that leads nowhere.
    """
    _place(name)


def names() -> list[str]:
    """Return the sorted names of all data sets and of their named subsets.

    Embedded, found in $KTRANSFER_DATA, or to be downloaded.
    """
    found = filter(_NAME.fullmatch, own_data.found_names())
    named = ["_".join(pair) for pair in _NAMED]
    pairs = (("digits", "letters"), ("mnist", "cifar10"))
    shifted = [f"{x}_{kind}" for x, _ in pairs for kind in shifts.PLAIN]
    over = [f"{x}_{how}over_{y}" for x, y in pairs for how in ("", "varied_")]
    return sorted(
        {*_EMBEDDED, *found, *archives.PUBLIC, *named, *shifted, *over}
    )


def _check_grammar(name):
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise KTransferError(
            "E_ARGUMENT",
            f"data set {name!r} is no valid name; expected 1 to 64 of a-z, 0-9 "
            "and _, the first no _. Rename the file or folder.",
        )


def _place(name):
    _check_grammar(name)
    if not _find(name)[0]:
        if shift := _SHIFT.fullmatch(name):
            return _shifted(_place(shift[1]), shift[2], None)
        if over := _OVER.fullmatch(name):
            kind = over[2].removesuffix("_over")
            return _shifted(_place(over[1]), kind, _place(over[3]))
    words = name.split("_")
    for length in range(len(words), 0, -1):
        base, rest = "_".join(words[:length]), "_".join(words[length:])
        found, path = _find(base)
        if found:
            whole = length == len(words)
            return _Place(
                base, path, None if whole else _classes(base, path, rest)
            )
    raise errors.unknown("data set", name, names())


def _shifted(place, kind, behind):
    return place._replace(shifts=(*place.shifts, (kind, behind)))


def _find(base):
    """Return whether there is a data set `base`, and its path."""
    path = own_data.find(base)
    if base in _EMBEDDED:
        if path is not None:
            raise KTransferError(
                "E_ARGUMENT",
                f"{path} has the name of the embedded data set {base!r}, which "
                "would be read instead of it. Rename it.",
            )
        return True, None
    if path is None and base in archives.PUBLIC:
        path = archives.cached(base)
    return path is not None, path


def _classes(base, path, rest):
    """Return the classes that `rest`, the end of a name, picks from `base`.

    Of the user's own data the number of classes is known only when it is read.
    """
    if (base, rest) in _NAMED:
        return _NAMED[base, rest]
    if bounds := _RANGE.fullmatch(rest):
        first, last = map(int, bounds.groups())
        classes = tuple(range(first, last + 1))
    elif _LIST.fullmatch(rest):
        classes = tuple(map(int, rest.split("_")))
    else:
        raise errors.unknown("data set", f"{base}_{rest}", names())
    if len(set(classes)) < max(len(classes), 2):
        raise KTransferError(
            "E_ARGUMENT",
            f"{base}_{rest} does not pick two or more different classes; "
            f"expected {base}_<first>to<last> or {base}_<class>_<class>.",
        )
    if path is None:
        _check_range(base, classes, len(_EMBEDDED[base]))
    elif path == archives.cached(base):
        _check_range(base, classes, archives.PUBLIC[base].num_classes)
    return classes


def _check_range(base, classes, num_classes):
    if max(classes) >= num_classes:
        raise KTransferError(
            "E_ARGUMENT",
            f"{base} has no class {max(classes)}; expected classes from 0 to "
            f"{num_classes - 1}.",
        )


@functools.lru_cache(maxsize=16)
def _ranking(place, seed):
    return subsets.ranking(_problem(place).train, seed)


def check_new_name(name: str) -> None:
    """Check a `name` for data of one's own that are not there yet.

    Raises:
        KTransferError: `E_ARGUMENT` for one that breaks the grammar, or that
            the embedded data have.
    """
    _check_grammar(name)
    if name in _EMBEDDED:
        raise KTransferError(
            "E_ARGUMENT",
            f"{name!r} is the name of embedded data, which would be found "
            "instead; expected another. Rename the file.",
        )


def as_task(name: str, problem: Problem, label_space: str) -> Task:
    """Return the `Task` called `name` of a `Problem`, without its test split.

    `label_space` is as in `Task`.
    """
    return Task(
        name=name,
        num_classes=len(problem.labels),
        image_shape=problem.train.x.shape[1:],
        train=problem.train,
        unlabelled=problem.unlabelled,
        origin=problem.origin,
        sha256=_task_hash(problem.train, problem.unlabelled),
        labels=problem.labels,
        label_space=label_space,
    )


@functools.lru_cache(maxsize=4)
def _whole_task(name, place):
    return as_task(name, _problem(place), _label_space(place))


def _label_space(place):
    kinds = [kind for kind, _ in place.shifts]
    space = _LABEL_SPACES.get(place.base, place.base)
    return f"{space}_shuffled" if "shuffled" in kinds else space


def _task_hash(train, unlabelled):
    return sha256(*train, *(() if unlabelled is None else (unlabelled,)))


@functools.lru_cache(maxsize=64)
def _digest(place):
    problem = _problem(place)
    unlabelled = problem.unlabelled
    rest = () if unlabelled is None else (unlabelled,)
    return sha256(*problem.train, *problem.test, *rest)


@functools.lru_cache(maxsize=4)
def _problem(place):
    """Return the `Problem` at `place`, read or rendered once a process."""
    if place.shifts:
        kind, behind = place.shifts[-1]
        plain = _problem(place._replace(shifts=place.shifts[:-1]))
        return shifts.shifted(plain, kind, behind and _problem(behind))
    if place.classes is not None:
        return _narrowed(_problem(place._replace(classes=None)), place)
    if place.base == "digits_8x8" and place.path is None:
        return digits_8x8.load()
    if place.path is None:
        train = Split(*glyphs.rendered(place.base, "train"))
        test = Split(*glyphs.rendered(place.base, "test"))
        labels = _EMBEDDED[place.base]
        return Problem(train, test, None, labels, "embedded glyphs")
    if place.path == archives.cached(place.base):
        return archives.load(place.base)
    return own_data.read(place.path)


def _narrowed(problem, place):
    """Return the `Problem` of some classes.

    It has no unlabelled images: nobody knows of which classes they are, and
    two tasks of different classes must not share an image.
    """
    classes = place.classes
    _check_range(place.base, classes, len(problem.labels))
    test = keep_classes(problem.test, classes)
    if not len(test.y):
        raise KTransferError(
            "E_SUBSET",
            f"{place.base} has no test image of the classes {classes}; "
            "expected at least one. Pick other classes or add test images.",
        )
    run = tuple(range(classes[0], classes[0] + len(classes)))
    listed = ", ".join(map(str, classes))
    if classes == run:
        listed = f"{classes[0]}-{classes[-1]}"
    return Problem(
        keep_classes(problem.train, classes),
        test,
        None,
        tuple(problem.labels[label] for label in classes),
        f"{problem.origin}, classes {listed}",
    )
