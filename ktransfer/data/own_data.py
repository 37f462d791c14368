"""The user's own images: an .npz of arrays, or a folder of image files.

Both lie in the folder that the environment variable KTRANSFER_DATA names.
Nothing is unpickled, and no label is read in a second pass over the files.
"""

import math
import os
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ktransfer.data.split import (
    Problem,
    Split,
    check_classes,
    check_same_shape,
    checked_images,
    checked_labels,
    checked_splits,
    sha256,
)
from ktransfer.errors import KTransferError

KEYS = ("x_train", "y_train", "x_test", "y_test")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")

_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
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


def user_folder():
    """Return the folder that KTRANSFER_DATA names, or None where it is unset.

    Raises:
        KTransferError: `E_ARGUMENT` when it names no folder.
    """
    name = os.environ.get("KTRANSFER_DATA")
    if not name:
        return None
    folder = Path(name)
    if not folder.is_dir():
        raise KTransferError(
            "E_ARGUMENT",
            f"KTRANSFER_DATA is {name!r}, which is no folder; expected one "
            "that holds <name>.npz or <name>/train/<class>/.",
        )
    return folder


def find(name):
    """Return the path of the user's data set `name`, or None.

    An .npz wins over a folder of the same name.
    """
    folder = user_folder()
    if folder is None:
        return None
    for path in (folder / f"{name}.npz", folder / name / "train"):
        if path.exists():
            return path if path.suffix == ".npz" else path.parent
    return None


def found_names():
    """Return the stems of the .npz files and the names of the image folders."""
    folder = user_folder()
    if folder is None:
        return []
    archives = [path.stem for path in folder.glob("*.npz")]
    return archives + [path.parent.name for path in folder.glob("*/train")]


def read(path):
    """Return the checked `Problem` at `path`, an .npz file or a folder."""
    return read_npz(path) if path.suffix == ".npz" else read_folder(path)


def read_npz(path):
    """Return the `Problem` in an .npz with the keys of `keras.datasets`.

    A fifth key, `x_unlabelled`, is taken where it is there; others are ignored.

    Raises:
        KTransferError: `E_DATA_HASH` for a file that is no sound .npz,
            `E_IMAGES`, `E_LABELS` or `E_SUBSET` for what is in it.
    """
    arrays = read_arrays(path, path.name, (*KEYS, "x_unlabelled"))
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
    return Problem(train, test, unlabelled, labels, _origin(name, train, test))


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
                "E_LABELS" if key.startswith("y") else "E_IMAGES",
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


def read_folder(folder):
    """Return the `Problem` in train/<class>/ and test/<class>/ of `folder`.

    The class names, sorted, get the labels 0, 1, ...; within a class the files
    are in the order of their names. Grey images have one channel; as soon as
    one image has colour, all are RGB. Pixels are taken as stored: transparency
    is dropped and a camera's rotation mark is not followed.

    Raises:
        KTransferError: `E_IMAGES` for a file that is no image or of another
            size, `E_SUBSET` for a class without images, `E_LABELS` for a class
            of the test images that has no training images.
    """
    train_files, classes = _listed(folder, "train")
    test_files, test_classes = _listed(folder, "test")
    for name in sorted(set(test_classes) - set(classes)):
        raise KTransferError(
            "E_LABELS",
            f"{folder.name}/test has a class {name!r} that {folder.name}/train "
            f"has not; expected some of {', '.join(classes)}.",
        )
    paths = [path for path, _ in train_files + test_files]
    images = _read_images(paths, folder)
    where = {name: label for label, name in enumerate(classes)}
    labels = [where[name] for _, name in train_files + test_files]
    train, test = [
        Split(
            checked_images(images[rows], f"{folder.name}/{part}"),
            checked_labels(labels[rows], len(labels[rows]), part),
        )
        for part, rows in (
            ("train", slice(len(train_files))),
            ("test", slice(len(train_files), None)),
        )
    ]
    check_classes(train.y, f"{folder.name}/train")
    content = sha256(*train, *test)[:8]
    origin = f"folder {folder.name} (sha256 {content})"
    return Problem(train, test, None, tuple(classes), origin)


def _listed(folder, part):
    """Return the sorted (path, class) of all image files, and the classes."""
    root = folder / part
    classes = (
        sorted(path.name for path in root.iterdir() if _is_class(path))
        if root.is_dir()
        else []
    )
    listed = []
    for name in classes:
        names = sorted(path.name for path in (root / name).iterdir())
        chosen = [
            (root / name / file, name)
            for file in names
            if not file.startswith(".") and file.lower().endswith(SUFFIXES)
        ]
        if not chosen:
            raise KTransferError(
                "E_SUBSET",
                f"{folder.name}/{part}/{name} holds no image; expected files "
                f"ending in {', '.join(SUFFIXES)}. Add some, or remove it.",
            )
        listed += chosen
    if not listed:
        raise KTransferError(
            "E_SUBSET",
            f"{folder.name} has no images in {part}/; expected a folder a "
            f"class, {folder.name}/{part}/<class>/.",
        )
    return listed, classes


def _is_class(path):
    return path.is_dir() and not path.name.startswith(".")


def _read_images(paths, folder):
    """Return uint8 (n, h, w, c) of the image files, in the order given."""
    images, first, grey = [], None, True
    for path in paths:
        image = _read_image(path, folder)
        first = first or image.size
        if image.size != first:
            raise KTransferError(
                "E_IMAGES",
                f"{path.relative_to(folder.parent)} has {image.size[0]} x "
                f"{image.size[1]} pixels, the first image {first[0]} x "
                f"{first[1]}; expected one size for all. Resize them.",
            )
        grey = grey and image.mode == "L"
        images.append(image)
    return np.stack(
        [np.asarray(i if grey else i.convert("RGB")) for i in images]
    )


def _read_image(path, folder):
    from PIL import Image, UnidentifiedImageError

    name = path.relative_to(folder.parent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mode = image.mode
                if mode in _GREY_MODES:
                    return image.convert("L")
                if mode in _COLOUR_MODES:
                    return image.convert("RGB")
    except (
        OSError,
        SyntaxError,
        ValueError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise KTransferError(
            "E_IMAGES",
            f"{name} cannot be read as an image; expected a whole file of "
            f"{', '.join(SUFFIXES)}. Replace or remove it.",
        ) from error
    raise KTransferError(
        "E_IMAGES",
        f"{name} has pixels of mode {mode}; expected 8 bits a channel, grey or "
        "colour. Convert it to PNG.",
    )
