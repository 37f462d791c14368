"""Two measurements against each other: a dot a run, a mark an arm."""

from typing import NamedTuple

import numpy as np

from ktransfer.errors import KTransferError
from ktransfer.plots import style
from ktransfer.plots.looks import looks


class Cloud(NamedTuple):
    """The points of one arm: `xs` and `ys` are lists of equal length.

    `method`, or whatever they are of, decides the look. `path` joins the arms
    of one name by a line, in the order given: they share a mark and a legend,
    and the ends are told apart by their `label`.
    """

    label: str
    method: str
    xs: list
    ys: list
    path: str = ""


def plane(
    clouds, *, x_label, y_label, title="", subtitle="", footer=(), mean=True
):
    """Draw every run as a dot, and the mean of each arm as a mark.

    Args:
        clouds: list of `Cloud`.
        x_label, y_label: what is measured, with its unit.
        footer: sentences below the figure.
        mean: draw the means too; without them the dots are large.

    Returns:
        A matplotlib `Figure`.

    Raises:
        KTransferError: `E_RECORD` if there is nothing to draw.
    """
    clouds = [cloud for cloud in clouds if cloud.xs]
    if not clouds:
        raise KTransferError(
            "E_RECORD", "no records to draw; expected one or more. Run first."
        )
    named = {c.path or c.label: c.method for c in clouds}
    chosen = looks(named)
    legend = [name for name in named if name]
    with style.in_style():
        figure, top, bottom = style.page(5.0, title, subtitle, footer)
        wide = max(map(style.inches, legend), default=0) + 0.7
        right = style.WIDTH - wide
        axes = style.axes(figure, 0.75, bottom + 0.6, right, top - 0.12)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        _draw_paths(axes, clouds, chosen)
        for cloud in clouds:
            name = cloud.path or cloud.label
            shown = name if name in legend else None
            _draw(axes, cloud, chosen[name], mean, shown)
            legend = [other for other in legend if other != name]
        if any(named):
            axes.legend(
                loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False
            )
        return figure


def _draw_paths(axes, clouds, chosen):
    for path in dict.fromkeys(c.path for c in clouds if c.path):
        members = [c for c in clouds if c.path == path]
        axes.plot(
            [np.mean(c.xs) for c in members],
            [np.mean(c.ys) for c in members],
            color=chosen[path].colour,
            linewidth=1.0,
            zorder=1,
        )
        for end in {id(c): c for c in (members[0], members[-1])}.values():
            axes.annotate(
                end.label,
                (np.mean(end.xs), np.mean(end.ys)),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
            )


def _draw(axes, cloud, look, mean, label):
    if mean:
        gid = f"dots-{cloud.label}"
        style.dots(axes, cloud.xs, cloud.ys, look.colour, gid)
        xs, ys = [np.mean(cloud.xs)], [np.mean(cloud.ys)]
    else:
        xs, ys = cloud.xs, cloud.ys
    style.means(axes, xs, ys, look, linestyle="none", label=label)
