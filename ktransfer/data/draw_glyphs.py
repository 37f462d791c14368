"""Draw the atlas `glyphs.npz` from the fonts that matplotlib ships.

Run `python -m ktransfer.data.draw_glyphs` to draw it again. The atlas is
committed, because another FreeType may draw other pixels: what is loaded never
depends on the fonts of a machine. Needs matplotlib and Pillow; no Keras.
"""

import io
from pathlib import Path

import numpy as np

from ktransfer import files
from ktransfer.data.glyphs import ATLAS, CELL, CHARACTERS

# Upright, bold and slanted; with serifs, without, and of fixed width.
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmtt10",
    "cmti10",
)
HEIGHT = 20  # pixels from the top of a capital letter to its foot
OVERSAMPLING = 8


def atlas():
    """Return uint8 (fonts, characters, CELL, CELL), light glyphs on black."""
    cells = [
        [glyph(font, character) for character in CHARACTERS] for font in FONTS
    ]
    return np.array(cells, "uint8")


def glyph(font, character):
    """Return uint8 (CELL, CELL): the character, centred, HEIGHT pixels tall.

    It is drawn large and then averaged, so that hinting cannot bend it.
    """
    from PIL import Image, ImageDraw

    face = _face(font)
    box = face.getbbox(character)
    side = CELL * OVERSAMPLING
    canvas = Image.new("L", (side, side))
    left = (side - box[0] - box[2]) // 2
    top = (side - box[1] - box[3]) // 2
    ImageDraw.Draw(canvas).text((left, top), character, fill=255, font=face)
    return np.asarray(canvas.resize((CELL, CELL), Image.Resampling.BOX))


def _face(font):
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    trial = ImageFont.truetype(str(path), 1000)
    _, top, _, bottom = trial.getbbox("E")
    size = round(1000 * HEIGHT * OVERSAMPLING / (bottom - top))
    return ImageFont.truetype(str(path), size)


def main():
    """Write the atlas beside this module."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, glyphs=atlas(), fonts=np.array(FONTS))
    files.write(ATLAS, buffer.getvalue())
    print(f"{ATLAS.name}: {len(FONTS)} fonts, {len(buffer.getvalue())} bytes")


if __name__ == "__main__":
    main()
