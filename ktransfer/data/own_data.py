"""The user's own images: an .npz of arrays, or a folder of image files.

Both lie in one of the folders that the environment variable KTRANSFER_DATA
names, the first that has them. Nothing is unpickled.
"""

import math
import os
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ktransfer.data import folders
from ktransfer.data.split import (
    Problem,
    check_class_names,
    check_same_shape,
    checked_images,
    checked_splits,
    sha256,
)
from ktransfer.errors import KTransferError

KEYS = ("x_train", "y_train", "x_test", "y_test")

# Deflate reaches 1000 : 1 on zeros, and photographs hardly 2 : 1.
_MAX_RATIO, _SMALL = 100, 64 << 20

# The public CIFAR-10 mirror in JPEG of quality 75 has an order of its own; its
# labels tell it from the archive whatever decoded the images.
_KNOWN_LABELS = {
    (
        "8eeff5a153575babfc9b85b57677b5eb9aa8f775b2ce69c6ede5426a1f6420ad"
    ): "CIFAR-10-q75",
}
_KNOWN_ARRAYS = {
    (
        "ceda791d3e53beaf95f8e213c414aa4d975006504eff93f785d685ecea3e892c"
    ): "MNIST",
}


def user_folders():
    """Return the folders that KTRANSFER_DATA names, a list of paths.

    Several are separated as in PATH, and none where it is unset.

    Raises:
        KTransferError: `E_ARGUMENT` when it names what is no folder.
    """
    named = os.environ.get("KTRANSFER_DATA", "").split(os.pathsep)
    found = [Path(name) for name in named if name]
    for folder in found:
        if not folder.is_dir():
            raise KTransferError(
                "E_ARGUMENT",
                f"KTRANSFER_DATA is {str(folder)!r}, which is no folder; "
                "expected one that holds <name>.npz or <name>/train/<class>/.",
            )
    return found


def find(name):
    """Return the path of the user's data set `name`, or None.

    The first folder wins, and in it an .npz over a folder of the same name.
    """
    for folder in user_folders():
        for path in (folder / f"{name}.npz", folder / name / "train"):
            if path.exists():
                return path if path.suffix == ".npz" else path.parent
    return None


def found_names():
    """Return the stems of the .npz files and the names of the image folders."""
    found = []
    for folder in user_folders():
        found += [path.stem for path in folder.glob("*.npz")]
        found += [path.parent.name for path in folder.glob("*/train")]
    return found


def read(path):
    """Return the checked `Problem` at `path`, an .npz file or a folder."""
    if path.suffix == ".npz":
        return read_npz(path)
    return folders.read_plain(path)


def read_npz(path):
    """Return the `Problem` in an .npz with the keys of `keras.datasets`.

    Two more are taken where they are there, `x_unlabelled` and `classes`: the
    names of the classes, an array of K texts. Others are ignored.

    Raises:
        KTransferError: `E_DATA_HASH` for a file that is no sound .npz,
            `E_IMAGES`, `E_LABELS` or `E_SUBSET` for what is in it.
    """
    arrays = read_arrays(path, path.name, (*KEYS, "x_unlabelled", "classes"))
    for key in KEYS:
        if key not in arrays:
            raise KTransferError(
                "E_LABELS" if key.startswith("y") else "E_IMAGES",
                f"{path.name} has no array {key}; expected {', '.join(KEYS)}. "
                "Save them with np.savez.",
            )
    name = path.name
    train, test = checked_splits(arrays, f" of {name}")
    unlabelled = arrays.get("x_unlabelled")
    if unlabelled is not None:
        what = f"x_unlabelled of {name}"
        unlabelled = checked_images(unlabelled, what)
        check_same_shape(unlabelled, train.x.shape[1:], what)
    labels = tuple(range(int(train.y.max()) + 1))
    if "classes" in arrays:
        labels = _class_names(arrays["classes"], len(labels), name)
    return Problem(train, test, unlabelled, labels, _origin(name, train, test))


def _class_names(array, num_classes, name):
    """Return the names in the array `classes` of an .npz, a tuple of K."""
    what = f"classes of {name}"
    if array.dtype.kind != "U" or array.shape != (num_classes,):
        raise KTransferError(
            "E_LABELS",
            f"{what} holds {array.dtype} in shape {array.shape}; expected "
            f"{num_classes} texts, one a class of y_train, in their order. "
            "Save np.array(names), or leave it out.",
        )
    points = np.dtype("u4").newbyteorder(array.dtype.byteorder)
    if np.frombuffer(array.tobytes(), points).max(initial=0) > sys.maxunicode:
        # NumPy would give it to Python unchecked.
        raise KTransferError(
            "E_LABELS",
            f"{what} holds what is no text; expected {num_classes} names. Save "
            "np.array(names), or leave it out.",
        )
    names = array.tolist()
    check_class_names(names, what)
    return tuple(names)


def _origin(name, train, test):
    by_labels = _KNOWN_LABELS.get(sha256(train.y, test.y))
    if by_labels and train.x.shape[1:] == (32, 32, 3):
        return by_labels
    content = sha256(*train, *test)
    return _KNOWN_ARRAYS.get(content) or f"{name} (sha256 {content[:8]})"


def read_arrays(file, name, keys):
    """Return those of the arrays `keys` that an .npz holds, as a dictionary.

    Each header is compared with the size of its member before anything is
    allocated, and a member that expands beyond reason is not read.

    Args:
        file: a path, or a binary file that can seek.
        name: what messages call it.
        keys: the names of the arrays.

    Raises:
        KTransferError: `E_DATA_HASH` for a damaged file, `E_IMAGES` or
            `E_LABELS` for an array of Python objects, which is never read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = [info.filename for info in archive.infolist()]
            if len(set(names)) < len(names):
                raise ValueError("two arrays have the same name")
            return {
                key: _read_array(archive, archive.getinfo(f"{key}.npy"), name)
                for key in keys
                if f"{key}.npy" in names
            }
    except (
        ValueError,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = " ".join(str(error).split())
        raise KTransferError(
            "E_DATA_HASH",
            f"{name} cannot be read as an .npz ({reason}); expected the arrays "
            f"{', '.join(KEYS)}, saved with np.savez. Save it again.",
        ) from error


def _read_array(archive, info, name):
    key = info.filename.removesuffix(".npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{key} is packed in a way that np.savez never uses")
    if info.file_size > max(_SMALL, _MAX_RATIO * info.compress_size):
        raise ValueError(
            f"{key} would expand from {info.compress_size} to "
            f"{info.file_size} bytes"
        )
    with archive.open(info) as member:
        shape, columns_first, dtype = _header(member)
        if dtype.hasobject:
            raise KTransferError(
                "E_IMAGES" if key.startswith("x") else "E_LABELS",
                f"{key} of {name} holds Python objects, which are never "
                "read; expected numbers. Save an array of uint8 images or "
                "integer labels.",
            )
        expected = math.prod(shape) * dtype.itemsize
        if expected != info.file_size - member.tell():
            raise ValueError(f"the header of {key} does not match its size")
        array = np.frombuffer(member.read(), dtype)
    return array.reshape(shape, order="F" if columns_first else "C")


def _header(member):
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(member)
    raise ValueError(f"it holds an array in .npy version {version}")
