"""The public data sets: fetched, verified, and converted once.

Each becomes one .npz in our own cache, under a lock and by rename. An archive
is parsed only after its size and sha256 hold, its members are read to memory,
and nothing is extracted to disk. Needs the network only while the cache lacks
the data set. `keras.datasets` is not used: it extracts in place at every call,
and several processes that load at once destroy each other's files.
"""

import contextlib
import contextvars
import gzip
import http.client
import io
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ktransfer import files
from ktransfer.data.own_data import KEYS, read_arrays
from ktransfer.data.split import (
    Problem,
    checked_splits,
    sha256,
)
from ktransfer.errors import KTransferError

KERAS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
TORONTO = "https://www.cs.toronto.edu/~kriz/"
TIMEOUT = 30  # seconds without a byte
_WITHOUT_NETWORK = contextvars.ContextVar("without_network", default=False)


class Archive(NamedTuple):
    """A file to fetch: its address, its bytes and the sha256 of them."""

    url: str
    size: int
    sha256: str


class Public(NamedTuple):
    """A public data set: its label, class count, archives and their parser.

    `parse` takes the bytes of each archive and returns the arrays of `KEYS`.
    """

    origin: str
    num_classes: int
    archives: tuple[Archive, ...]
    parse: Callable


@contextlib.contextmanager
def without_network():
    """Refuse to fetch, with `E_OFFLINE`, inside the `with` block."""
    token = _WITHOUT_NETWORK.set(True)
    try:
        yield
    finally:
        _WITHOUT_NETWORK.reset(token)


def cached(name):
    """Return the path of the converted data set, which need not exist."""
    return files.cache() / "datasets" / f"{name}.npz"


def load(name):
    """Return the `Problem` of the public data set `name`, fetched if need be.

    Raises:
        KTransferError: `E_OFFLINE` when an archive cannot be fetched,
            `E_DATA_HASH` when what came is not the pinned file, `E_DISK` or
            `E_RESULTS_DIR` when the cache cannot be written.
    """
    path = cached(name)
    problem = _converted(name, path)
    if problem is None:
        with files.lock(path.with_suffix(".lock")):
            files.remove_leftovers(path.parent)
            problem = _converted(name, path)
            if problem is None:
                files.write(path, _convert(name))
                problem = _converted(name, path)
    return problem


def _converted(name, path):
    """Return the `Problem` at `path`, or None where it is absent or damaged."""
    if not path.exists():
        return None
    try:
        arrays = read_arrays(path, str(path), (*KEYS, "seal"))
        sound = str(arrays.pop("seal", "")) == _seal(name, arrays)
    except KTransferError:
        sound = False
    if not sound:
        print(f"warning: {path} is damaged; fetching again", file=sys.stderr)
        return None
    train, test = checked_splits(arrays, f" of {name}")
    public = PUBLIC[name]
    labels = tuple(range(public.num_classes))
    return Problem(train, test, None, labels, public.origin)


def _convert(name):
    """Return the bytes of the .npz made from the archives of `name`."""
    contents = [_verified(name, archive) for archive in PUBLIC[name].archives]
    values = PUBLIC[name].parse(*contents)
    arrays = dict(zip(KEYS, values, strict=True))
    train, test = checked_splits(arrays, f" of {name}")
    arrays = dict(zip(KEYS, (*train, *test), strict=True))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, seal=np.array(_seal(name, arrays)))
    return buffer.getbuffer()


def _seal(name, arrays):
    """Return the sha256 of the arrays and of the archives they stem from."""
    pins = "\n".join(archive.sha256 for archive in PUBLIC[name].archives)
    content = sha256(*(arrays[key] for key in KEYS if key in arrays))
    return files.sha256(pins.encode(), content.encode())


def _verified(name, archive):
    """Return the bytes of the `archive`: the user's copy, or fetched ones."""
    copy = files.cache() / "downloads" / name / archive.url.rsplit("/", 1)[1]
    if copy.exists():
        content = copy.read_bytes()
        if not _refusal(content, archive):
            return content
        files.write(_aside(copy), content)
        copy.unlink()
        print(f"warning: {copy} set aside as *.bad", file=sys.stderr)
    content = _fetch(archive, copy)
    refusal = _refusal(content, archive)
    if refusal:
        files.write(_aside(copy), content)
        raise KTransferError(
            "E_DATA_HASH",
            f"{archive.url} gave {refusal}; kept as {_aside(copy)}. Try again, "
            f"or put the right file at {copy}.",
        )
    return content


def _aside(path):
    return path.with_name(f"{path.name}.bad")


def _refusal(content, archive):
    """Return what is wrong with the `content`, "" where it is as pinned."""
    found = files.sha256(content)
    if (len(content), found) == (archive.size, archive.sha256):
        return ""
    size = f"{len(content)} bytes"
    if len(content) > archive.size:
        size = f"more than {archive.size} bytes"
    page = " (an HTML page)" if b"<html" in content[:1000].lower() else ""
    return (
        f"{size}{page} with sha256 {found}; expected {archive.size} bytes with "
        f"sha256 {archive.sha256}"
    )


def _fetch(archive, copy):
    """Return what the address gives, at most one byte above the pinned size."""
    if _WITHOUT_NETWORK.get():
        raise KTransferError(
            "E_OFFLINE", f"{archive.url} is not in the cache ({copy})."
        )
    print(
        f"fetching {archive.url} ({archive.size / 1e6:.0f} MB)", file=sys.stderr
    )
    try:
        with urllib.request.urlopen(archive.url, timeout=TIMEOUT) as response:
            return response.read(archive.size + 1)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the socket
        raise KTransferError(
            "E_OFFLINE",
            f"cannot fetch {archive.url} ({error}). Put that file at {copy}, "
            "or set KTRANSFER_DATA to a folder with the data as <name>.npz, or "
            "go online.",
        ) from error


def _from_keras_npz(content):
    arrays = read_arrays(io.BytesIO(content), "the archive", KEYS)
    return [arrays[key] for key in KEYS]


def _from_idx(x_train, y_train, x_test, y_test):
    return [_idx(content) for content in (x_train, y_train, x_test, y_test)]


def _idx(content):
    """Return the uint8 array in the bytes of a gzipped IDX file."""
    content = gzip.decompress(content)
    num_axes = content[3]
    shape = np.frombuffer(content, ">i4", num_axes, offset=4)
    return np.frombuffer(content, "uint8", offset=4 + 4 * num_axes).reshape(
        shape
    )


# The binary archives of CIFAR, not the Python ones that Keras takes: those are
# pickles, and nothing here unpickles.
def _from_cifar10(content):
    train = [f"data_batch_{number}" for number in range(1, 6)]
    folder = "cifar-10-batches-bin"
    train = [f"{folder}/{part}.bin" for part in train]
    return _cifar(content, train, [f"{folder}/test_batch.bin"], num_labels=1)


def _from_cifar100(content):
    train, test = "cifar-100-binary/train.bin", "cifar-100-binary/test.bin"
    return _cifar(content, [train], [test], num_labels=2)


def _cifar(content, train, test, num_labels):
    """Return images and labels of the members `train` and `test` of a tar.

    A row is `num_labels` labels, of which the last is the finest, and the
    three colour planes of 32 x 32 bytes.
    """
    members = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            if member.isreg() and member.name in (*train, *test):
                file = archive.extractfile(member)
                assert file is not None
                members[member.name] = file.read()
    arrays = []
    for part in (train, test):
        joined = b"".join(members[member] for member in part)
        rows = np.frombuffer(joined, "uint8").reshape(-1, num_labels + 3072)
        planes = rows[:, num_labels:].reshape(-1, 3, 32, 32)
        arrays += [planes.transpose(0, 2, 3, 1), rows[:, num_labels - 1]]
    return arrays


PUBLIC = {
    "mnist": Public(
        "MNIST",
        10,
        (
            Archive(
                KERAS + "mnist.npz",
                11490434,
                "731c5ac602752760c8e48fbffcf8c3b8"
                "50d9dc2a2aedcf2cc48468fc17b673d1",
            ),
        ),
        _from_keras_npz,
    ),
    "fashion_mnist": Public(
        "Fashion-MNIST",
        10,
        (
            Archive(
                KERAS + "train-images-idx3-ubyte.gz",
                26421880,
                "3aede38d61863908ad78613f6a32ed27"
                "1626dd12800ba2636569512369268a84",
            ),
            Archive(
                KERAS + "train-labels-idx1-ubyte.gz",
                29515,
                "a04f17134ac03560a47e3764e11b92fc"
                "97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            Archive(
                KERAS + "t10k-images-idx3-ubyte.gz",
                4422102,
                "346e55b948d973a97e58d2351dde16a4"
                "84bd415d4595297633bb08f03db6a073",
            ),
            Archive(
                KERAS + "t10k-labels-idx1-ubyte.gz",
                5148,
                "67da17c76eaffca5446c3361aaab5c3c"
                "d6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        _from_idx,
    ),
    "cifar10": Public(
        "CIFAR-10",
        10,
        (
            Archive(
                TORONTO + "cifar-10-binary.tar.gz",
                170052171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d6"
                "8f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        _from_cifar10,
    ),
    "cifar100": Public(
        "CIFAR-100",
        100,
        (
            Archive(
                TORONTO + "cifar-100-binary.tar.gz",
                168513733,
                "58a81ae192c23a4be8b1804d68e518ed"
                "807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
        _from_cifar100,
    ),
}
