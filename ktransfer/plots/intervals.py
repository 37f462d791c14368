"""Values with their intervals, one row each, in groups."""

from typing import NamedTuple

from ktransfer.analysis import words
from ktransfer.errors import KTransferError
from ktransfer.plots import style
from ktransfer.plots.looks import looks

_ROW = 0.235


class Row(NamedTuple):
    """A value and the ends of its interval; nan where there is none.

    `method`, or whatever it is a value of, decides the look; `group` stands
    beside the first of the rows that share it.
    """

    label: str
    method: str
    value: float
    low: float
    high: float
    group: str = ""


def intervals(rows, *, x_label, title="", subtitle="", footer=(), mark=None):
    """Draw each row as a mark and the bar of its interval, from top to bottom.

    Args:
        rows: list of `Row`.
        x_label: what the values are, with their unit.
        footer: sentences below the figure.
        mark: a value that a line is drawn at, such as 0.

    Returns:
        A matplotlib `Figure`.

    Raises:
        KTransferError: `E_RECORD` if there is nothing to draw.
    """
    if not rows:
        raise KTransferError(
            "E_RECORD", "no records to draw; expected one or more. Run first."
        )
    chosen = looks({row.label: row.method for row in rows})
    with style.in_style():
        height = _ROW * len(rows)
        figure, top, bottom = style.page(height + 0.75, title, subtitle, footer)
        groups = 0.12 + max(style.inches(row.group) for row in rows)
        names = max(style.inches(words.plain(row.label)) for row in rows)
        left = groups + names + 0.3
        axes = style.axes(
            figure, left, top - height - 0.1, style.WIDTH - 0.3, top - 0.1
        )
        axes.set_ylim(len(rows), 0)
        axes.set_yticks([])
        axes.set_xlabel(x_label)
        axes.grid(axis="x", color="#E0E0E0", linewidth=0.6)
        axes.set_axisbelow(True)
        if mark is not None:
            axes.axvline(mark, color="#303030", linewidth=1.0, zorder=1)
        shown = None
        for number, row in enumerate(rows):
            y = top - 0.1 - _ROW * (number + 0.5)
            style.write(
                figure, left - 0.1, y, words.plain(row.label), ha="right"
            )
            if row.group != shown:
                shown = row.group
                style.write(figure, 0.12, y, shown, color=style.MUTED)
                if number:
                    axes.axhline(number, color="#C4C4C4", linewidth=0.8)
            _draw(axes, row, number + 0.5, chosen[row.label])
        return figure


def _draw(axes, row, y, look):
    axes.plot(
        [row.low, row.high],
        [y, y],
        color=look.colour,
        linewidth=1.6,
        gid=f"interval of {row.label}",
    )
    style.means(axes, [row.value], [y], look, linestyle="none", zorder=3)
