"""Labelled images, and the checks that they pass before anything uses them."""

from typing import NamedTuple

import numpy as np

from ktransfer import files
from ktransfer.errors import KTransferError


class Split(NamedTuple):
    """Images `x`, uint8 (n, h, w, c), and labels `y`, int32 (n,)."""

    x: np.ndarray
    y: np.ndarray


class Problem(NamedTuple):
    """A whole data set as it was read, with the test split.

    Fields:
        train, test: `Split`s whose labels are 0..K-1.
        unlabelled: uint8 images of the same shape, or None.
        labels: the K original labels in the order of the new ones.
        origin: a short label of where the images come from, without a path.
    """

    train: Split
    test: Split
    unlabelled: np.ndarray | None
    labels: tuple
    origin: str


def sha256(*arrays):
    """Return the sha256 of the shapes, types and bytes of the `arrays`."""
    chunks: list[bytes | np.ndarray] = []
    for array in arrays:
        chunks.append(f"{array.dtype.str}{array.shape}".encode())
        chunks.append(np.ascontiguousarray(array))
    return files.sha256(*chunks)


def checked_images(images, what):
    """Return `images` as read-only uint8 (n, h, w, c).

    Args:
        images: an array (n, h, w) or (n, h, w, c), c of 1 or 3.
        what: what they are, for the message: "x_train of mine.npz".

    Raises:
        KTransferError: `E_IMAGES` for another shape or type, no image at all,
            a pixel that is no number, or pixels that are all the same.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise _wrong_type(images, what)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise KTransferError(
            "E_IMAGES",
            f"{what} has shape {images.shape}; expected (n, height, width) or "
            "(n, height, width, channels) with at least one image and 1 or 3 "
            "channels, which come last. Reshape or transpose it.",
        )
    if images.min() == images.max():
        raise KTransferError(
            "E_IMAGES",
            f"every pixel of {what} is {images.min()}; expected images that "
            "differ. Check how the array was made.",
        )
    return read_only(images)


def as_pixels(images, what):
    """Return `images` as uint8, cast where they are pixels of another type.

    Args:
        images: an array of whole numbers from 0 to 255.
        what: what they are, for the message: "target images".

    Raises:
        KTransferError: `E_IMAGES` for values that uint8 does not hold, and
            for floats of 0 and 1 alone, which are of a range from 0 to 1.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if not _are_pixels(images):
        raise _wrong_type(images, what)
    return images.astype("uint8")


def _are_pixels(images):
    if images.dtype.kind not in "iuf" or not images.size:
        return False
    least, most = images.min(), images.max()
    # NaN fails both comparisons.
    if not (least >= 0 and most <= 255):
        return False
    whole = images.dtype.kind != "f" or (images == np.floor(images)).all()
    return whole and not (images.dtype.kind == "f" and most == 1)


def _wrong_type(images, what):
    found = f"{what} holds {images.dtype}"
    if images.dtype.kind in "iuf" and images.size:
        found += f" from {images.min():.4g} to {images.max():.4g}"
    if images.dtype.kind == "f":
        bad = np.argwhere(~np.isfinite(images))
        if len(bad):
            first = tuple(map(int, bad[0]))
            found = f"{what} holds {images[first]} at index {first}"
        fix = (
            "Make them whole numbers, with (x * 255).round().astype('uint8') "
            "where the range is 0 to 1; models rescale by themselves."
        )
    elif images.dtype.hasobject:
        fix = "Stack images of one size into one array, np.stack(images)."
    else:
        fix = "Where the values are 0 to 255, convert with .astype('uint8')."
    return KTransferError(
        "E_IMAGES", f"{found}; expected uint8 pixels from 0 to 255. {fix}"
    )


def checked_labels(labels, num_images, what, num_classes=None):
    """Return `labels` as read-only int32 (n,).

    Args:
        labels: whole numbers, (n,) or (n, 1).
        num_images: how many there must be.
        what: what they are, for the message: "y_train of mine.npz".
        num_classes: K, for labels that must be below it; None where the
            labels define K themselves.

    Raises:
        KTransferError: `E_LABELS`, with the first bad index and its value.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    _check_label_array(labels, num_images, what)
    top = np.iinfo("int32").max if num_classes is None else num_classes - 1
    good = (labels >= 0) & (labels <= top)
    if labels.dtype.kind == "f":
        good &= labels == np.floor(labels)
    bad = np.flatnonzero(~good)
    if len(bad):
        raise KTransferError(
            "E_LABELS",
            f"{what} holds {labels[bad[0]]} at index {bad[0]}; expected whole "
            f"numbers from 0 to {'K - 1' if num_classes is None else top}, one "
            "a class of the training images. Number the classes from 0.",
        )
    return read_only(labels.astype("int32"))


def _check_label_array(labels, num_images, what):
    if labels.dtype.kind not in "iuf":
        raise KTransferError(
            "E_LABELS",
            f"{what} holds {labels.dtype}; expected integers from 0. Number "
            "the classes, for instance with np.unique(y, return_inverse=True).",
        )
    if labels.ndim != 1:
        raise KTransferError(
            "E_LABELS",
            f"{what} has shape {labels.shape}; expected (n,) or (n, 1). If it "
            "is one-hot, take .argmax(axis=1).",
        )
    if len(labels) != num_images:
        raise KTransferError(
            "E_LABELS",
            f"{what} has {len(labels)} labels for {num_images} images; "
            "expected one an image.",
        )


def check_classes(labels, what):
    """Return K of the int32 training `labels`, which must use all of 0..K-1.

    Raises:
        KTransferError: `E_SUBSET` for a class without an image, or one class.
    """
    present = np.unique(labels)
    num_classes = int(present[-1]) + 1
    if len(present) < num_classes:
        gap = int(np.flatnonzero(present != np.arange(len(present)))[0])
        raise KTransferError(
            "E_SUBSET",
            f"{what} goes up to {num_classes - 1}, but class {gap} has no "
            f"training image ({len(present)} of {num_classes} classes have). "
            "Number the classes 0..K-1 without a gap.",
        )
    if num_classes < 2:
        raise KTransferError(
            "E_SUBSET",
            f"{what} has one class with {len(labels)} images; expected at "
            "least two classes.",
        )
    return num_classes


def check_class_names(names, what):
    """Refuse names of classes that are not printable, or not distinct.

    Args:
        names: list of texts.
        what: whose they are, for the message: "classes of mine.npz".

    Raises:
        KTransferError: `E_LABELS`.
    """
    seen = set()
    for number, name in enumerate(names):
        if not name.isprintable() or not name.strip():
            raise KTransferError(
                "E_LABELS",
                f"{what}: name {number} is {name!r}; expected letters that "
                "can be printed. Rename it.",
            )
        if name in seen:
            raise KTransferError(
                "E_LABELS",
                f"{what}: {name!r} is there twice; expected one name a class. "
                "Rename one.",
            )
        seen.add(name)


def checked_splits(arrays, of):
    """Return the checked training and test `Split` of four arrays.

    Args:
        arrays: {"x_train", "y_train", "x_test", "y_test": array}.
        of: what to add to those names in messages: " of mine.npz".

    Raises:
        KTransferError: `E_IMAGES`, `E_LABELS` or `E_SUBSET`.
    """
    x_train = checked_images(arrays["x_train"], f"x_train{of}")
    x_test = checked_images(arrays["x_test"], f"x_test{of}")
    check_same_shape(x_test, x_train.shape[1:], f"x_test{of}")
    y_train = checked_labels(arrays["y_train"], len(x_train), f"y_train{of}")
    num_classes = check_classes(y_train, f"y_train{of}")
    y_test = checked_labels(
        arrays["y_test"], len(x_test), f"y_test{of}", num_classes
    )
    return Split(x_train, y_train), Split(x_test, y_test)


def check_same_shape(images, shape, what):
    """Raise `E_IMAGES` unless each of the `images` has `shape` (h, w, c)."""
    if images.shape[1:] != shape:
        raise KTransferError(
            "E_IMAGES",
            f"{what} has images of {images.shape[1:]}, the training images "
            f"are {shape}; expected one shape. Resize one of them.",
        )


def read_only(array):
    """Return `array`, C-contiguous, locked against changes in place."""
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
