"""One image file: opened, turned upright, made grey or RGB, and fitted.

Only regular files are opened, only by decoders that read pixels and nothing
else, and only up to a stated number of bytes and pixels. What cannot be used
raises `Unusable`, with a reason that many files may share.
"""

import contextlib
import io
import os
import stat
import warnings
from typing import NamedTuple

import numpy as np

from ktransfer import files

SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png"),
    *(".ppm", ".tif", ".tiff", ".webp"),
)
FITS = ("pad", "crop", "stretch")

NOT_NAMED = "not named as an image"
HIDDEN = "hidden"
FOLDER = "a folder inside a class"
NOT_REGULAR = "no regular file"
BROKEN_LINK = "a link that leads nowhere"
EMPTY = "empty"
CLOSED = "cannot be opened"
DAMAGED = "damaged, or no image"
OTHER_PIXELS = "pixels neither grey nor colour"
# Pillow's own limit for a decompression bomb.
_MOST_PIXELS = 89_478_485
TOO_LARGE = "more than 89 million pixels"
_MOST_BYTES = 256 << 20
TOO_LONG = "more than 256 MiB"
# Photographs shrink to a tenth, and what is larger than 16 million pixels
# without one byte for fifty of them is made to fill a memory.
_SMALL, _MOST_A_BYTE = 16 << 20, 50
BOMB = "grows beyond reason when decoded"

# Decoders that run nothing: Pillow hands EPS to another program.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP")
_GREY = ("1", "L", "LA", "La")
_WIDE = ("I;16", "I;16L", "I;16B", "I")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")


class Unusable(Exception):
    """An image file that is left out, with the reason in a few words."""


class Picture(NamedTuple):
    """One image as it was read and fitted.

    Fields:
        pixels: uint8 (height, width), or (height, width, 3) in colour.
        size: (height, width) that it had, upright, before it was fitted.
        sha256: of the bytes of its file.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    sha256: str


def check_entry(name, path):
    """Raise `Unusable` for what is no image file by its name and kind.

    Nothing is opened: a pipe would wait for ever, and a device may act.
    """
    if name.startswith("."):
        raise Unusable(HIDDEN)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise Unusable(BROKEN_LINK) from error
    if stat.S_ISDIR(mode):
        raise Unusable(FOLDER)
    if not stat.S_ISREG(mode):
        raise Unusable(NOT_REGULAR)
    if not name.lower().endswith(SUFFIXES):
        raise Unusable(NOT_NAMED)


def size(path):
    """Return the upright (height, width) of an image file, by its header.

    Raises:
        Unusable: it cannot be read.
    """
    with _opened(path) as file, _as_unusable():
        image = _image(file, os.fstat(file.fileno()).st_size)
        # Pillow turns a TIFF itself, and its size with it; and it would decode
        # a whole PNG in search of a mark at its end.
        marked = image.format not in ("PNG", "TIFF") or "exif" in image.info
        turned = marked and _orientation(image) >= 5
        return image.size if turned else image.size[::-1]


def read(path, fitted_to, fit):
    """Return the `Picture` in an image file.

    Of an animation it is the first frame. Transparent pixels are laid on
    white. Of 16 bits a channel the upper 8 are kept. A camera's rotation mark
    is followed.

    Args:
        path: of the file.
        fitted_to: (height, width) of the pixels, or None for its own size.
        fit: as in `fitted`.

    Raises:
        Unusable: it cannot be read.
    """
    with _opened(path) as file:
        content = file.read(_MOST_BYTES + 1)
    with _as_unusable():
        return _decoded(content, fitted_to, fit)


def fitted(image, to, fit):
    """Return a Pillow image of the size `to`, resampled without aliasing.

    An image that has the size already is returned as it is.

    Args:
        image: grey or RGB.
        to: (height, width).
        fit: "pad" shrinks or grows it until it fits inside, and leaves the
            rest black, half on either side; "crop" until it covers, and cuts
            the middle out; "stretch" changes its proportions.
    """
    from PIL import Image

    height, width = to
    if image.size == (width, height):
        return image
    if fit == "stretch":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    scales = width / image.width, height / image.height
    if fit == "crop":
        left = max(0, image.width - width / max(scales)) / 2
        top = max(0, image.height - height / max(scales)) / 2
        box = (left, top, image.width - left, image.height - top)
        return image.resize((width, height), Image.Resampling.BICUBIC, box)
    inner = [max(1, round(n * min(scales))) for n in image.size]
    small = image.resize(inner, Image.Resampling.BICUBIC)
    whole = Image.new(image.mode, (width, height))
    whole.paste(small, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return whole


@contextlib.contextmanager
def _as_unusable():
    """Raise `Unusable` for whatever a decoder raises, and let nothing warn.

    A damaged file makes decoders fail in any way they like.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Unusable, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise Unusable(TOO_LARGE) from error
    except Exception as error:
        raise Unusable(DAMAGED) from error


def _opened(path):
    """Return the open binary file, which is regular even if it just became."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise Unusable(CLOSED) from error
    found = os.fstat(descriptor)
    reasons = (
        (not stat.S_ISREG(found.st_mode), NOT_REGULAR),
        (found.st_size == 0, EMPTY),
        (found.st_size > _MOST_BYTES, TOO_LONG),
    )
    for holds, reason in reasons:
        if holds:
            os.close(descriptor)
            raise Unusable(reason)
    return open(descriptor, "rb")


def _image(file, num_bytes):
    """Return the Pillow image of a binary file, its pixels not yet read."""
    from PIL import Image

    image = Image.open(file, formats=_FORMATS)
    num_pixels = image.width * image.height
    if num_pixels > _MOST_PIXELS:
        raise Unusable(TOO_LARGE)
    if num_pixels > max(_SMALL, _MOST_A_BYTE * num_bytes):
        raise Unusable(BOMB)
    return image


def _decoded(content, to, fit):
    image = _image(io.BytesIO(content), len(content))
    stored = image.size
    if to is not None:
        # A JPEG is read at half, a quarter or an eighth of its size where
        # that leaves at least twice what is kept: a tenth of the time.
        image.draft(None, (2 * max(to), 2 * max(to)))
    image.load()
    orientation = _orientation(image)
    upright = stored if orientation >= 5 else stored[::-1]
    plain = _turned(_plain(image), orientation)
    if to is not None:
        plain = fitted(plain, to, fit)
    return Picture(np.asarray(plain), upright, files.sha256(content))


def _orientation(image):
    """Return how a camera says that the image is turned, 1 (upright) to 8."""
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:
        # What is beside the pixels may be damaged without harm to them.
        return 1
    return found if found in range(1, 9) else 1


def _turned(image, orientation):
    from PIL.Image import Transpose

    ways = (
        *(None, Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180),
        *(Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE),
        *(Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90),
    )
    way = ways[orientation - 1]
    return image if way is None else image.transpose(way)


def _plain(image):
    """Return the image in mode "L" or "RGB", laid on white."""
    from PIL import Image

    if image.mode in _WIDE:
        return _narrowed(image)
    if image.mode not in _GREY + _COLOUR:
        raise Unusable(OTHER_PIXELS)
    mode = "L" if image.mode in _GREY else "RGB"
    if not _may_be_clear(image):
        return image.convert(mode)
    if image.mode in ("La", "RGBa"):
        image = image.convert(f"{mode}A")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert(mode)


def _may_be_clear(image):
    """Tell whether an image says of its pixels how transparent they are."""
    palette = getattr(image.palette, "mode", "")
    return (
        image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
        or (image.mode == "P" and palette.endswith("A"))
        or "transparency" in image.info
    )


def _narrowed(image):
    """Return an image of 16 bits a pixel as one of 8."""
    from PIL import Image

    if image.mode == "I" and image.format == "TIFF":
        # 32 bits, whose white nobody knows.
        raise Unusable(OTHER_PIXELS)
    return Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
