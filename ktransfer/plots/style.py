"""One style for all figures: the page, marks and files."""

import contextlib
import io
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from ktransfer import files
from ktransfer.analysis import words
from ktransfer.errors import KTransferError
from ktransfer.plots.looks import Look

FAMILIES = (
    *("baselines", "feature", "parameter", "structure", "knowledge"),
    *("fusion", "multitask", "finetuning", "domain"),
)
# Markers of equal size look unequal.
_MARKER_SIZES = {"*": 1.45, "P": 1.15, "d": 1.15, "D": 0.9, "s": 0.95}
MUTED = "#5A5A5A"

SIZE = 9.0
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": SIZE,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#808080",
    "axes.linewidth": 0.8,
    "axes.labelcolor": "#303030",
    "xtick.color": "#808080",
    "ytick.color": "#808080",
    "xtick.labelcolor": "#303030",
    "ytick.labelcolor": "#303030",
    "svg.hashsalt": "ktransfer",
    "svg.fonttype": "path",
    "figure.dpi": 100,
}
WIDTH = 10.0
_DOTS_PER_INCH = 150


@contextlib.contextmanager
def in_style():
    """Draw under matplotlib's defaults and ours, whatever a matplotlibrc says.

    Raises:
        KTransferError: `E_MISSING_PACKAGE` without matplotlib.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise KTransferError(
            "E_MISSING_PACKAGE",
            "figures need matplotlib, which is not installed; "
            "run `pip install matplotlib`.",
        ) from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def inches(text, size=SIZE):
    """Return the width of the widest line; call it within `in_style`."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    measure = text_to_path.get_text_width_height_descent
    lines = text.split("\n")
    return max(measure(line, font, False)[0] for line in lines) / 72


def page(height, title, subtitle, footer):
    """Return a figure with its texts; `height` in inches is for the rest.

    Returns:
        (figure, top, bottom): the inches from the lower edge between which
        the caller may draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heading = [
        (12.0, "#000000", textwrap.wrap(words.plain(title), 92)),
        (SIZE, MUTED, textwrap.wrap(words.plain(subtitle), 132)),
    ]
    footing = [line for text in footer for line in textwrap.wrap(text, 145)]
    above = 0.12 + sum(0.0215 * size * len(lines) for size, _, lines in heading)
    below = 0.1 + 0.17 * len(footing)
    figure = Figure(figsize=(WIDTH, above + height + below))
    FigureCanvasAgg(figure)
    _write_heading(figure, above + height + below - 0.1, heading)
    for number, line in enumerate(footing):
        y = below - 0.06 - 0.17 * number
        write(figure, 0.12, y, line, fontsize=8, color=MUTED, va="top")
    return figure, below + height, below


def _write_heading(figure, y, heading):
    """Write lines from `y` inches downward, by (size, colour, lines)."""
    for size, tint, lines in heading:
        for line in lines:
            write(figure, 0.12, y, line, fontsize=size, color=tint, va="top")
            y -= 0.0215 * size


def write(figure, x, y, text, **options):
    """Put `text` at (x, y) inches from the lower left corner."""
    options = {"va": "center", **options}
    figure.text(x, y, text, transform=figure.dpi_scale_trans, **options)


def axes(figure, left, bottom, right, top):
    """Return axes between these inches from the lower left corner."""
    width, height = figure.get_size_inches()
    return figure.add_axes(
        (
            left / width,
            bottom / height,
            (right - left) / width,
            (top - bottom) / height,
        )
    )


def fence(values):
    """Return (low, high) outside which a value would squash the axis."""
    first, third = np.quantile(values, (0.25, 0.75))
    slack = 3.0 * max(third - first, 2.0)
    return first - slack, third + slack


def dots(axes, xs, ys, tint, gid):
    """Plot single runs or seeds."""
    axes.plot(
        xs,
        ys,
        linestyle="none",
        marker="o",
        markersize=3.3,
        markeredgewidth=0,
        color=tint,
        alpha=0.4,
        gid=gid,
    )


def means(axes, xs, ys, look: Look, size=7.0, **options):
    """Plot means, with a white edge that parts them from what they cover."""
    edge = "white" if look.filled else look.colour
    return axes.plot(
        xs,
        ys,
        marker=look.marker,
        markersize=size * _MARKER_SIZES.get(look.marker, 1.0),
        color=look.colour,
        markerfacecolor=look.colour if look.filled else "white",
        markeredgecolor=edge,
        markeredgewidth=0.6 if look.filled else 1.4,
        **options,
    )


# Kind of a file -> what it says of its making: nothing.
_METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


def save(figure, path):
    """Write the `figure` to `path`, a .png or .svg, by rename.

    Two builds of one figure give equal bytes: no date, no version of any
    software is stored.

    Raises:
        KTransferError: `E_ARGUMENT` for another suffix, and what
            `files.write` raises.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in _METADATA:
        raise KTransferError(
            "E_ARGUMENT",
            f"cannot save a figure as {path.name!r}; expected .png or .svg.",
        )
    buffer = io.BytesIO()
    with in_style():
        figure.savefig(
            buffer, format=kind, dpi=_DOTS_PER_INCH, metadata=_METADATA[kind]
        )
    files.write(path, buffer.getvalue())
