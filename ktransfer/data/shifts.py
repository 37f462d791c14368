"""The same classes in other images: what a domain shift does to a data set.

A name says it: `mnist_inverted`, `mnist_dilated`, `mnist_rotated`,
`mnist_over_cifar10` and `mnist_varied_over_cifar10`, of any data set that is
there; `mnist_rgb`, which has three equal channels; and `cifar10_shuffled`,
whose training labels are shuffled. What is drawn at random is drawn once and
for all, so that a name always means the same images.
"""

import functools

import numpy as np

from ktransfer.data.split import Problem, Split, read_only
from ktransfer.errors import KTransferError

PLAIN = ("dilated", "inverted", "rgb", "rotated", "shuffled")
# Degrees of `rotated`, counter-clockwise; `varied` turns by up to as many.
ANGLE = 45.0
# Images shifted at a time. It bounds the memory, and since each chunk draws
# from a stream of its own it is a part of what a name means.
_CHUNK = 2000


def inverted(images):
    """Return 255 - `images`, uint8."""
    return 255 - images


def rgb(images):
    """Return `images` with three channels, equal ones where they were grey."""
    return np.broadcast_to(images, (*images.shape[:-1], 3))


def dilated(images):
    """Return the largest of each pixel's 3 x 3 neighbourhood, uint8.

    The first shift of Ganin and Lempitsky 2015, arXiv:1409.7495, which does
    not give the size of the neighbourhood; it is ours.
    """
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    found = images
    for row in range(3):
        for column in range(3):
            part = padded[:, row : row + height, column : column + width]
            found = np.maximum(found, part)
    return found


def rotated(images, degrees=ANGLE):
    """Return `images` turned about their centres; what comes in is black.

    Bilinear, in whole numbers from the sine on, so that no machine rounds
    another way.

    Args:
        images: uint8 `(n, height, width, channels)`.
        degrees: counter-clockwise, a number or one an image.
    """
    n, height, width, _ = images.shape
    angle = np.deg2rad(np.broadcast_to(degrees, n))[:, None, None]
    cosine = np.rint(np.cos(angle) * 2**14).astype("int64")
    sine = np.rint(np.sin(angle) * 2**14).astype("int64")
    # Half pixels from the centre, then places in pixels / 2^15.
    rows, columns = np.mgrid[:height, :width]
    rows, columns = 2 * rows - (height - 1), 2 * columns - (width - 1)
    y = cosine * rows + sine * columns + (height - 1) * 2**14
    x = cosine * columns - sine * rows + (width - 1) * 2**14
    # A border of zeros, so that a neighbour outside is black.
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).astype("int64")
    y = np.clip(y + 2**15, 0, height * 2**15)
    x = np.clip(x + 2**15, 0, width * 2**15)
    top, left = y >> 15, x >> 15
    down, right = ((z & (2**15 - 1)) >> 7 for z in (y, x))
    down, right = down[..., None], right[..., None]
    image = np.arange(n)[:, None, None]
    upper = (256 - right) * padded[image, top, left]
    upper += right * padded[image, top, left + 1]
    lower = (256 - right) * padded[image, top + 1, left]
    lower += right * padded[image, top + 1, left + 1]
    return (((256 - down) * upper + down * lower + 2**15) >> 16).astype("uint8")


def blended(images, patches):
    """Return |patch - image|, uint8 `(n, height, width, 3)`.

    Difference blending as in MNIST-M; Ganin and Lempitsky 2015,
    arXiv:1409.7495, took the patches from BSDS500.

    Args:
        images: uint8 `(n, height, width, 1 or 3)`.
        patches: uint8 `(n, height, width, 3)`.
    """
    difference = images.astype("int16") - patches
    return np.abs(difference).astype("uint8")


def patches(images, n, size, seed):
    """Return `n` patches of random images at random places, in colour.

    Args:
        images: uint8 `(m, height, width, 1 or 3)`, at least as large as size.
        n: number of patches.
        size: (height, width).
        seed: a list of whole numbers.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(images), n)[:, None, None]
    spare = [images.shape[1 + axis] - size[axis] for axis in (0, 1)]
    rows = rng.integers(0, spare[0] + 1, n)[:, None, None]
    columns = rng.integers(0, spare[1] + 1, n)[:, None, None]
    rows = rows + np.arange(size[0])[:, None]
    columns = columns + np.arange(size[1])
    found = images[chosen, rows, columns]
    return np.broadcast_to(found, (*found.shape[:3], 3))


def varied(images, backgrounds, seed):
    """Return `images` in many looks: turned, coloured, inverted, blended.

    Each image is turned by up to `ANGLE` degrees and gets one random colour;
    each second one is blended with its background, and each second one,
    independently, inverted.

    Args:
        images: uint8 `(n, height, width, 1 or 3)`.
        backgrounds: uint8 `(n, height, width, 3)`.
        seed: a list of whole numbers.
    """
    rng = np.random.default_rng(seed)
    n = len(images)
    turned = rotated(images, rng.uniform(-ANGLE, ANGLE, n))
    colours = rng.integers(100, 256, (n, 1, 1, 3))
    found = (turned * colours // 255).astype("uint8")
    behind = rng.integers(0, 2, (n, 1, 1, 1)) == 1
    found = np.where(behind, blended(found, backgrounds), found)
    negative = rng.integers(0, 2, (n, 1, 1, 1)) == 1
    return np.where(negative, 255 - found, found).astype("uint8")


def shifted(problem, kind, backgrounds=None):
    """Return the `Problem` with every image shifted.

    Args:
        problem: a `Problem`.
        kind: of `PLAIN`, or "over" or "varied".
        backgrounds: for these two the `Problem` whose training images give
            the patches of training, and whose test images those of testing.
    """
    if kind == "shuffled":
        return _shuffled(problem)
    if kind in PLAIN:
        act = {
            "dilated": dilated,
            "inverted": inverted,
            "rgb": rgb,
            "rotated": rotated,
        }
        acts = [lambda images, chunk: act[kind](images)] * 3
        origin = f"{problem.origin}, {kind}"
    else:
        _check_size(problem, backgrounds)
        behind = backgrounds.train.x, backgrounds.test.x, backgrounds.train.x
        acts = [
            functools.partial(_over, kind, others, number)
            for number, others in enumerate(behind)
        ]
        look = ", varied," if kind == "varied" else ""
        origin = f"{problem.origin}{look} over {backgrounds.origin}"
    train, test, unlabelled = problem.train, problem.test, problem.unlabelled
    return Problem(
        Split(_in_chunks(acts[0], train.x), train.y),
        Split(_in_chunks(acts[1], test.x), test.y),
        None if unlabelled is None else _in_chunks(acts[2], unlabelled),
        problem.labels,
        origin,
    )


def _shuffled(problem):
    """Return `problem` with training labels that say nothing."""
    order = np.random.default_rng(0).permutation(len(problem.train.y))
    train = Split(problem.train.x, read_only(problem.train.y[order]))
    origin = f"{problem.origin}, labels shuffled"
    return problem._replace(train=train, origin=origin)


def _in_chunks(act, images):
    starts = range(0, len(images), _CHUNK)
    parts = [act(images[i : i + _CHUNK], i // _CHUNK) for i in starts]
    return read_only(np.concatenate(parts))


def _over(kind, others, number, images, chunk):
    seed = [number, chunk]
    size = images.shape[1:3]
    behind = patches(others, len(images), size, [*seed, 1])
    if kind == "varied":
        return varied(images, behind, [*seed, 2])
    return blended(images, behind)


def _check_size(problem, backgrounds):
    size = problem.train.x.shape[1:3]
    offered = backgrounds.train.x.shape[1:3]
    if any(a > b for a, b in zip(size, offered)):
        raise KTransferError(
            "E_IMAGES",
            f"no patch of {size} fits into images of {offered} "
            f"({backgrounds.origin}); expected larger backgrounds.",
        )
