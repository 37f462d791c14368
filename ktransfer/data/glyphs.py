"""The embedded pair: `letters` in colour and `digits` in grey, no download.

Both are rendered from the committed atlas `glyphs.npz` (18 fonts) in integer
arithmetic alone, so that their bytes are the same on every machine. A glyph is
rotated, sheared, scaled and moved, pieces of other glyphs lie across its
borders, and noise covers all. Train and test share the fonts and differ in
every random draw.

Test accuracy, one seed, Adam at 1e-3. The CNN is conv 32, pool, conv 64, pool,
conv 64, dense 64, dense 10.

    model                                           digits   letters
    logistic regression on pixels, 30 epochs        51.0 %    10.3 %
    CNN, all 5,000 images, 10 epochs of batch 64    95.5 %    92.6 %
    CNN, 10 images a class, 100 epochs of batch 32  47.3 %    29.5 %
"""

import functools
import math
from pathlib import Path

import numpy as np

from ktransfer import seeds

ATLAS = Path(__file__).with_name("glyphs.npz")
DIGITS = "0123456789"
# Each of them has a near twin: O Q, C G, E F, P R, B D.
LETTERS = "BCDEFGOPQR"
CHARACTERS = DIGITS + LETTERS
CELL = 28  # pixels, the side of a glyph in the atlas

NUM_IMAGES = {"train": 5000, "test": 1000}
_SIDE = {"digits": 28, "letters": 32}
_FIRST = {"digits": 0, "letters": len(DIGITS)}
# Images rendered at once: their arrays fit the processor's cache. It is part of
# the order of the random draws, so another value gives other bytes.
_CHUNK = 250

# Fixed point: 1024 is one. Rounding hides the last bits of the local sine.
_ONE = 1024
_MAX_DEGREES = 25
_ANGLES = [math.radians(d) for d in range(-_MAX_DEGREES, _MAX_DEGREES + 1)]
_SINE = np.array([round(_ONE * math.sin(a)) for a in _ANGLES], "int32")
_COSINE = np.array([round(_ONE * math.cos(a)) for a in _ANGLES], "int32")


@functools.lru_cache(maxsize=4)
def rendered(name, part):
    """Return the images and labels of `digits` or `letters`, read-only.

    Args:
        name: "digits" for (n, 28, 28, 1), "letters" for (n, 32, 32, 3).
        part: "train" for 5,000 images, "test" for 1,000.

    Returns:
        uint8 images and int32 labels, classes balanced, order shuffled.
    """
    rng = np.random.default_rng(seeds.stream(0, "glyphs", name, part))
    num_images = NUM_IMAGES[part]
    order = np.argsort(rng.integers(0, 1 << 62, num_images), kind="stable")
    labels = (np.arange(num_images, dtype="int32") % 10)[order]
    render = {"digits": _grey, "letters": _colour}[name]
    chunks = [
        render(labels[start : start + _CHUNK], rng)
        for start in range(0, num_images, _CHUNK)
    ]
    images = np.concatenate(chunks)
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


def _grey(labels, rng):
    """Light digits and dimmer debris on a noisy ground that slopes."""
    n, side = len(labels), _SIDE["digits"]
    ink = _with_debris(labels, "digits", rng)
    ground = _texture(n, side, rng) * _each(rng, 0, 96, n) >> 8
    contrast = _each(rng, 90, 240, n)
    noise = _noise(rng, (n, side, side)) * _each(rng, 16, 64, n) >> 8
    images = ground + (ink * (contrast - ground * 96 // 256) >> 8) + noise
    return np.clip(images, 0, 255).astype("uint8")[..., None]


def _colour(labels, rng):
    """Letters and debris of one colour on a texture of two others.

    Dark on light, or both inverted, at least 48 levels apart.
    """
    n, side = len(labels), _SIDE["letters"]
    ink = _with_debris(labels, "letters", rng)
    texture = _texture(n, side, rng)
    ground = rng.integers(128, 256, (n, 3), "int32")
    other = ground + rng.integers(-48, 49, (n, 3), "int32")
    front = ground - rng.integers(96, 176, (n, 3), "int32")
    negative = rng.integers(0, 2, (n, 1), "int32") == 1
    ground, other, front = (
        np.where(negative, 255 - colour, colour)
        for colour in (ground, other, front)
    )
    noise = _noise(rng, (n, side, side)) * _each(rng, 8, 48, n) >> 8
    images = np.empty((n, side, side, 3), "uint8")
    for channel in range(3):
        low, high, top = (
            colour[:, channel, None, None] for colour in (ground, other, front)
        )
        back = low + ((high - low) * texture >> 8)
        mixed = back + ((top - back) * ink >> 8) + noise
        images[..., channel] = np.clip(mixed, 0, 255)
    return images


def _with_debris(labels, name, rng):
    """Return int32 (n, side, side), 0..255: a glyph and pieces of two more."""
    n, side, first = len(labels), _SIDE[name], _FIRST[name]
    shift = rng.integers(-3 * _ONE, 3 * _ONE + 1, (2, n))
    ink = _placed(labels + first, side, shift, rng)
    for _ in range(2):
        others = rng.integers(first, first + 10, n)
        # Across the border along one axis, anywhere along the other.
        near, far = (side // 2 - 1) * _ONE, (side // 2 + 4) * _ONE
        away = rng.integers(near, far, n)
        away *= 2 * rng.integers(0, 2, n) - 1
        along = rng.integers(-12 * _ONE, 12 * _ONE, n)
        upright = rng.integers(0, 2, n) == 1
        shift = np.where(upright, [away, along], [along, away])
        debris = _placed(others, side, shift, rng)
        np.maximum(ink, debris * _each(rng, 64, 224, n) >> 8, out=ink)
    return ink


def _placed(characters, side, shift, rng):
    """Sample a glyph of a random font through a random affine map.

    Args:
        characters: (n,) places in `CHARACTERS`.
        side: pixels of the result.
        shift: (2, n) of the centre, down and right, in 1/1024 pixels.

    Returns:
        int32 (n, side, side), 0..255.
    """
    n, table = len(characters), _neighbours()
    cell = rng.integers(0, table.shape[0], n) * len(CHARACTERS) + characters
    matrix = _inverse_maps(n, rng)
    centre = np.arange(side, dtype="int32") * 2 - (side - 1)  # in half pixels
    down = centre[None, :, None] * _ONE // 2 - shift[0][:, None, None]
    right = centre[None, None, :] * _ONE // 2 - shift[1][:, None, None]
    down, right = down.astype("int32"), right.astype("int32")
    half = (CELL - 1) * _ONE // 2
    rows = (matrix[0] * down >> 10) + (matrix[1] * right >> 10) + half
    columns = (matrix[2] * down >> 10) + (matrix[3] * right >> 10) + half
    return _bilinear(table, cell, rows, columns)


def _inverse_maps(n, rng):
    """Return int32 (4, n, 1, 1): 2 x 2 maps from the image to the atlas."""
    turn = rng.integers(0, 2 * _MAX_DEGREES + 1, n)
    sine, cosine = _SINE[turn], _COSINE[turn]
    shear = rng.integers(-256, 257, n, "int32")
    tall, wide = rng.integers(880, 1400, (2, n), "int32")  # above 1024: smaller
    matrix = (
        cosine * tall >> 10,
        -sine * tall >> 10,
        (sine + (cosine * shear >> 10)) * wide >> 10,
        (cosine - (sine * shear >> 10)) * wide >> 10,
    )
    return np.array(matrix, "int32")[:, :, None, None]


def _bilinear(table, cell, rows, columns):
    """Interpolate at `rows` and `columns`, in 1/1024 pixels of a cell."""
    width = CELL + 1
    row = np.clip(rows >> 10, -1, CELL - 1)
    column = np.clip(columns >> 10, -1, CELL - 1)
    inside = (row == rows >> 10) & (column == columns >> 10)
    place = cell.astype("int32")[:, None, None] * (width * width)
    place = place + ((row + 1) * width + column + 1)
    four = np.take(table.ravel(), place)
    down, right = rows >> 5 & 31, columns >> 5 & 31
    top = (four & 255) * (32 - right) + (four >> 8 & 255) * right
    foot = (four >> 16 & 255) * (32 - right) + (four >> 24 & 255) * right
    return (top * (32 - down) + foot * down >> 10) * inside


@functools.lru_cache(maxsize=1)
def _neighbours():
    """Return int64 (fonts, characters, 29, 29): each pixel and its next three.

    Four neighbours packed into one number cost one look-up instead of four.
    A border of zeros surrounds each cell.
    """
    with np.load(ATLAS, allow_pickle=False) as atlas:
        cells = atlas["glyphs"]
    cells = np.pad(cells, ((0, 0), (0, 0), (1, 1), (1, 1))).astype("int64")
    return (
        cells[..., :-1, :-1]
        | cells[..., :-1, 1:] << 8
        | cells[..., 1:, :-1] << 16
        | cells[..., 1:, 1:] << 24
    )


def _texture(n, side, rng):
    """Return int32 (n, side, side), 0..255: clouds mixed with stripes."""
    knots = rng.integers(0, 256, (n, 5, 5), "int32")
    weights = _spread(side)
    clouds = weights @ knots @ weights.T >> 12
    across = np.arange(side, dtype="int32")
    slopes = rng.integers(-80, 81, (2, n, 1, 1), "int32")
    wave = slopes[0] * across[:, None] + slopes[1] * across
    stripes = np.abs((wave + _each(rng, 0, 512, n) & 511) - 256)
    share = _each(rng, 0, 257, n)
    return np.minimum(stripes * share + clouds * (256 - share) >> 8, 255)


@functools.lru_cache(maxsize=2)
def _spread(side):
    """Return int32 (side, 5): linear between 5 knots, weights in 64ths."""
    places = np.arange(side, dtype="int32") * 256 // (side - 1)
    distance = np.abs(places[:, None] - 64 * np.arange(5, dtype="int32"))
    return np.maximum(64 - distance, 0).astype("int32")


def _noise(rng, shape):
    """Return int32 from -255 to 255, zero in the mean, triangular."""
    first, second = rng.integers(0, 256, (2, *shape), "uint8")
    return first.astype("int32") - second


def _each(rng, low, high, n):
    """Return one random int32 an image, low <= value < high, (n, 1, 1)."""
    return rng.integers(low, high, (n, 1, 1), "int32")
