"""Test accuracy against labels per class, or another setting, as lines."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ktransfer.analysis import arms, intervals, outcomes, words
from ktransfer.analysis.record import Record
from ktransfer.analysis.remarks import compared
from ktransfer.plots import captions, style
from ktransfer.plots.looks import looks

# Drawn thick, and in colour whatever is highlighted.
_CONTROLS = ("scratch", "random_features")
_LABELS = "labelled images per class (log scale)"
_OTHERS_COLOUR = "#C4C4C4"
_TICKS = (10, 30, 50, 70, 80, 90, 95, 97, 98, 99, 99.5, 99.8, 99.9, 99.95)


class _Point(NamedTuple):
    """One cell on a line: its place, mean, and the runs behind it."""

    x: float
    interval: intervals.Interval
    accuracies: list
    num_diverged: int


class _Line(NamedTuple):
    """One arm across places; `name` is its label in the legend."""

    arm: arms.Arm
    name: str
    points: list[_Point]

    @property
    def is_control(self):
        return self.arm.method in _CONTROLS and self.arm.steps_factor == 1


class _Axis(NamedTuple):
    """What the horizontal axis shows.

    `place` is a function of a record; `ticks` maps what it returns to a
    position and its name; `ignoring` is what does not tell arms apart.
    """

    label: str
    place: Callable[[Record], Any]
    ticks: dict[Any, tuple[float, str]]
    ignoring: tuple[str, ...] = ()


def accuracy_against_labels(
    records, title="", subtitle="", highlight=None, mix=False, planned=None
):
    """Draw test accuracy against labels per class, one line an arm.

    Every run that ended well is a dot, the bar is the t-interval over seeds,
    and a run that diverged is a cross at the foot of its budget. Dots are set
    aside by a few per cent on the logarithmic axis so as not to hide others.
    Where the best accuracies crowd below 100 % the other axis is logarithmic
    in the error, and says so. `scratch` and `random_features` are thick.

    Args:
        records: of one target.
        highlight: methods to draw in colour beside these two; all others
            become thin grey lines. None colours every arm.
        mix: accept records of several numeric environments, and say so.
        planned: number of runs planned, for the note "12 of 20 runs".

    Returns:
        A matplotlib `Figure`; accuracies are in per cent.

    Raises:
        KTransferError: `E_RECORD` for no records or ones that should not
            meet, `E_ARGUMENT` for several targets.
    """
    records = captions.one_target(records, mix)
    axis = _Axis(_LABELS, lambda r: r["labels_per_class"], _budgets(records))
    notes = compared(records), captions.remarks(records, planned)
    return _page(records, axis, highlight, (title, subtitle), notes)


def accuracy_against(name, records, x_label, title="", subtitle="", mix=False):
    """Draw test accuracy against a setting of the runs, one line an arm.

    Drawn as in `accuracy_against_labels`; arms are told apart by all else.

    Args:
        name: `steps`, or a hyper-parameter whose values are above 0.
        records: of one target and one number of labels per class; those that
            lack the setting are left out.
        x_label: what the setting is, with its unit.

    Returns:
        A matplotlib `Figure`; accuracies are in per cent.

    Raises:
        KTransferError: as in `accuracy_against_labels`.
    """
    place = _setting(name)
    known = [r for r in records if place(r) is not None]
    known = captions.one_target(known, mix)
    ticks = {v: (float(v), f"{v:,g}") for v in sorted(set(map(place, known)))}
    axis = _Axis(f"{x_label} (log scale)", place, ticks, (name,))
    notes = compared(known), captions.remarks(known)
    return _page(known, axis, None, (title, subtitle), notes)


def _setting(name):
    """Return the function of a record that gives its setting, or None."""

    def place(record: Record):
        settings = {**record["hyperparameters"], "steps": record["steps"]}
        return settings.get(name)

    return place


def _page(records, axis, highlight, heading, notes):
    """Draw records by their place on the `axis`, an `_Axis`."""
    lines = _lines(records, axis)
    named, others = _split(lines, highlight)
    limits, outside = _accuracy_limits(lines)
    with style.in_style():
        height = max(4.4, 0.5 + 0.2 * math.ceil(len(named) / _columns(named)))
        footer = _footer(outside, *notes)
        title, subtitle = heading
        figure, top, bottom = style.page(height, title, subtitle, footer)
        right = style.WIDTH - _legend_width(named, others)
        axes = style.axes(figure, 0.75, bottom + 0.6, right, top - 0.12)
        _place_axis(axes, axis)
        _accuracy_axis(axes, limits, records)
        _draw_others(axes, others)
        _legend(axes, named, _draw_named(axes, named), len(others))
        return figure


def _budgets(records: list[Record]) -> dict[Any, tuple[float, str]]:
    """Return a dict labels_per_class -> (x, its name), in order."""
    counts: dict[int | None, list[float]] = {}
    for record in outcomes.measured(records):
        count = record["num_labels"] / record["num_classes"]
        counts.setdefault(record["labels_per_class"], []).append(count)
    places = {
        labels: (x := float(np.mean(found)), f"all ({x:,.0f})")
        if labels is None
        else (float(labels), f"{labels:,}")
        for labels, found in counts.items()
    }
    return dict(sorted(places.items(), key=lambda item: item[1]))


def _lines(records, axis):
    lines = []
    for arm, members in arms.arms(records, axis.ignoring).items():
        points = []
        for place, (x, _) in axis.ticks.items():
            cell = [r for r in members if axis.place(r) == place]
            if outcomes.measured(cell):
                points.append(_point(x, cell))
        if points:
            lines.append(_Line(arm, captions.name(arm, members), points))
    return sorted(lines, key=_final, reverse=True)


def _point(x, cell):
    ended = [r for r in outcomes.measured(cell) if not outcomes.diverged(r)]
    return _Point(
        x,
        intervals.mean_interval(100.0 * outcomes.seed_values(cell)),
        [100.0 * outcomes.accuracy(record) for record in ended],
        sum(map(outcomes.diverged, cell)),
    )


def _split(lines, highlight):
    """Return the lines to draw in colour, and the others."""
    if highlight is None:
        return lines, []
    chosen = {*highlight, *_CONTROLS}
    named = [line for line in lines if line.arm.method in chosen]
    return named, [line for line in lines if line not in named]


def _final(line):
    """Sort key: the arms that reach furthest first, then by accuracy."""
    last = line.points[-1]
    return last.x, last.interval.mean, line.arm.label


def _accuracy_limits(lines):
    """Return the extremes to show and the (label, mean) of arms far below."""
    means = [p.interval.mean for line in lines for p in line.points]
    if not means:
        return (0.0, 100.0), []
    floor = style.fence(means)[0]
    shown = [v for v in means if v >= floor]
    outside = []
    for line in lines:
        if all(p.interval.mean < floor for p in line.points):
            outside.append((line.arm.label, line.points[-1].interval.mean))
        for point in line.points:
            shown += [v for v in point.accuracies if v >= floor]
            if not point.num_diverged and point.interval.count > 1:
                ends = point.interval.low, point.interval.high
                shown += [min(v, 100.0) for v in ends if v >= floor]
    return (min(shown), max(shown)), outside


def _footer(outside, described, notes):
    if outside:
        names = ", ".join(
            f"{words.plain(arm)} ({v:.1f} %)" for arm, v in outside
        )
        notes = [*notes, f"below the axis: {names}"]
    kind = "bars: 95 % t-interval over seeds; dots: runs"
    return [f"{described}; {kind}", "; ".join(notes)]


def _columns(named):
    return 1 if len(named) <= 26 else 2


def _legend_width(named, others):
    names = [line.name for line in named]
    names += ["other methods (99)"] if others else []
    longest = max(map(style.inches, names), default=0.0)
    return 0.25 + _columns(named) * (longest + 0.5)


def _place_axis(axes, axis):
    axes.set_xscale("log")
    ticks = [x for x, _ in axis.ticks.values()]
    axes.set_xticks(ticks, [name for _, name in axis.ticks.values()])
    axes.set_xticks([], minor=True)
    gap = _gap(ticks)
    if ticks:
        axes.set_xlim(
            10 ** (math.log10(ticks[0]) - 0.45 * gap),
            10 ** (math.log10(ticks[-1]) + 0.45 * gap),
        )
    axes.set_xlabel(axis.label)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)


def _accuracy_axis(axes, limits, records):
    """Set the scale: of the error where accuracies crowd below 100 %."""
    low, high = limits
    images = min(r["num_test_images"] or 1_000 for r in records)
    # Half an image: what an error of 0 is drawn at.
    floor = 50.0 / images
    if high < 97.0 or 100.0 - low < 8.0 * max(100.0 - high, floor):
        pad = 0.05 * max(high - low, 1.0)
        axes.set_ylim(max(low - 1.5 * pad, -2.0), min(high + pad, 100.5))
        axes.set_ylabel("test accuracy (%)")
        return
    axes.set_yscale(
        "function",
        functions=(
            lambda value: -np.log10(np.maximum(100.0 - value, floor)),
            lambda place: 100.0 - 10.0**-place,
        ),
    )
    error = max(100.0 - high, floor)
    axes.set_ylim(low - 0.15 * (100.0 - low), 100.0 - max(0.88 * error, floor))
    ticks = [v for v in _TICKS if axes.get_ylim()[0] <= v <= high]
    axes.set_yticks(ticks, [f"{value:g}" for value in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylabel("test accuracy (%), log scale of the error")


def _gap(ticks):
    """Return the smallest distance between two places, in decades."""
    decades = np.log10(sorted(ticks))
    return float(np.diff(decades).min()) if len(decades) > 1 else 1.0


def _offsets(lines):
    """Return a dict label -> factors for an arm's mean and for its dots."""
    ticks = {p.x for line in lines for p in line.points}
    share = 0.75 if len(ticks) < 2 else min(0.45, 0.045 * len(lines))
    step = share * _gap(ticks) / max(len(lines), 1)
    middle = (len(lines) - 1) / 2
    labels = sorted(line.arm.label for line in lines)
    return {
        label: (10 ** (step * (k - middle)), 10 ** (step * (k - middle + 0.4)))
        for k, label in enumerate(labels)
    }


def _draw_others(axes, lines):
    for line in lines:
        axes.plot(
            [p.x for p in line.points],
            [p.interval.mean for p in line.points],
            color=_OTHERS_COLOUR,
            linewidth=0.8,
            marker=".",
            markersize=4,
            zorder=1.5,
        )
        _crosses(axes, line, 1.0, "#909090")


def _draw_named(axes, lines):
    """Draw every line with its runs; return the artists for the legend."""
    chosen = looks({line.arm.label: line.arm.method for line in lines})
    offsets = _offsets(lines)
    return [
        _draw_line(axes, line, offsets[line.arm.label], chosen[line.arm.label])
        for line in lines
    ]


def _draw_line(axes, line, offsets, look):
    """Draw bars, dots, crosses and means; return the line of the means."""
    thick, label = line.is_control, line.arm.label
    tint = look.colour
    order = 2.2 if thick else 3.0
    offset, aside = offsets
    xs = [offset * p.x for p in line.points]
    means = [p.interval.mean for p in line.points]
    axes.errorbar(
        xs,
        means,
        yerr=[p.interval.high - p.interval.mean for p in line.points],
        fmt="none",
        ecolor=tint,
        elinewidth=2.0 if thick else 1.3,
        zorder=order,
    )
    for point in line.points:
        dots = [aside * point.x] * len(point.accuracies)
        style.dots(axes, dots, point.accuracies, tint, f"runs of {label}")
    _crosses(axes, line, offset, tint)
    (artist,) = style.means(
        axes,
        xs,
        means,
        look,
        size=8.0 if thick else 7.0,
        linestyle=look.line,
        linewidth=2.6 if thick else 1.4,
        zorder=order + 0.2,
        gid=f"mean of {label}",
    )
    return artist


def _crosses(axes, line, offset, tint):
    """Mark diverged runs at the foot of the axes, one cross each."""
    for point in line.points:
        axes.plot(
            [offset * point.x] * point.num_diverged,
            [0.02 + 0.03 * k for k in range(point.num_diverged)],
            linestyle="none",
            marker="x",
            markersize=6,
            markeredgewidth=1.6,
            color=tint,
            transform=axes.get_xaxis_transform(),
            zorder=4,
            gid=f"diverged of {line.arm.label}",
        )


def _legend(axes, lines, artists, num_others):
    from matplotlib.lines import Line2D

    names = [line.name for line in lines]
    if num_others:
        artists.append(Line2D([], [], color=_OTHERS_COLOUR, marker="."))
        names.append(f"other methods ({num_others})")
    if not artists:
        return
    legend = axes.legend(
        artists,
        # Set below: matplotlib leaves out a label with a leading underscore.
        [str(number) for number in range(len(names))],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        frameon=False,
        fontsize=style.SIZE,
        ncols=_columns(lines),
        handlelength=1.8,
        columnspacing=1.0,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
