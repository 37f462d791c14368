"""Figures from records alone: accuracy against labels, and a forest of gains.

A figure is a pure function of its records, so that two builds give equal
bytes. A method has one colour and one marker in every figure: the colour is
its family's hue, lighter or darker by a hash of its name, and the marker is a
hash too. matplotlib is imported when the first figure is drawn.
"""

import contextlib
import hashlib
import io
import math
import textwrap
import unicodedata
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from ktransfer import files, statistics
from ktransfer.errors import KTransferError

FAMILIES = (
    "baselines",
    "feature",
    "parameter",
    "structure",
    "knowledge",
    "fusion",
    "multitask",
    "finetuning",
    "domain",
)
# Okabe and Ito's colours, and two of Tol's in place of yellow and black.
_HUES = {
    "feature": "#0072B2",
    "parameter": "#D55E00",
    "structure": "#009E73",
    "knowledge": "#CC79A7",
    "fusion": "#56B4E9",
    "multitask": "#999933",
    "finetuning": "#E69F00",
    "domain": "#882255",
}
_CONTROL_COLOURS = {
    "scratch": "#000000",
    "random_features": "#7F7F7F",
    "majority": "#B0B0B0",
}
_CONTROL_MARKERS = {"scratch": "s", "random_features": "D", "majority": "X"}
_MARKERS = "ov^<>dpP*h"
_MARKER_SIZES = {"*": 1.45, "P": 1.15, "d": 1.15, "D": 0.9, "s": 0.95}
_SHADES = (-0.4, -0.2, 0.0, 0.18, 0.34)
_OTHERS_COLOUR = "#C4C4C4"
_MUTED = "#5A5A5A"
_FAULT = "#B00020"

_ACCURACY_TICKS = (
    10,
    30,
    50,
    70,
    80,
    90,
    95,
    97,
    98,
    99,
    99.5,
    99.8,
    99.9,
    99.95,
)

_SIZE = 9.0
_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": _SIZE,
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
_WIDTH = 10.0
_DOTS_PER_INCH = 150
_LABEL = 38


class _Point(NamedTuple):
    """One cell on a line: its place, mean, and the runs behind it."""

    x: float
    interval: statistics.Interval
    accuracies: list
    num_diverged: int


class _Line(NamedTuple):
    """One arm across label budgets."""

    label: str
    method: str
    family: str
    points: list


class _Row(NamedTuple):
    """One arm of the forest; `gain` is None for the baseline."""

    label: str
    method: str
    family: str
    records: list
    accuracy: statistics.Interval
    gain: statistics.Gain | None


# --- Style -----------------------------------------------------------------


@contextlib.contextmanager
def _style():
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


def _hash(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def colour(method, family):
    """Return the one colour of a method, as (red, green, blue) in 0 to 1."""
    from matplotlib.colors import to_rgb

    if method in _CONTROL_COLOURS:
        return to_rgb(_CONTROL_COLOURS[method])
    hues = list(_HUES.values())
    hue = _HUES.get(family, hues[_hash(family) % len(hues)])
    base = np.array(to_rgb("#404040" if family == "baselines" else hue))
    shade = _SHADES[_hash(method) % len(_SHADES)]
    towards = 1.0 if shade > 0 else 0.0
    mixed = base + abs(shade) * (towards - base)
    return tuple(float(channel) for channel in mixed)


def markers(arms):
    """Return a dict arm -> marker.

    Args:
        arms: dict from an arm's label to its (method, family).

    An arm keeps the marker of its hash unless one earlier in the alphabet has
    it in this figure: then it gets the next free one, or, where none is free,
    the next that no arm of its colour has.
    """
    chosen, taken = {}, set()
    for arm in sorted(arms):
        tint = colour(*arms[arm])
        place = _hash(arm)
        turns = [place + step for step in range(len(_MARKERS))]
        choices = [_MARKERS[turn % len(_MARKERS)] for turn in turns]
        used = {marker for _, marker in taken}
        free = [m for m in choices if m not in used]
        free += [m for m in choices if (tint, m) not in taken]
        marker = _CONTROL_MARKERS.get(arm, (free or choices)[0])
        taken.add((tint, marker))
        chosen[arm] = marker
    return chosen


def plain(text):
    """Return `text` on one line, without control or direction characters."""
    return "".join(
        "?" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c
        for c in " ".join(str(text).split())
    )


def _shorten(text, length):
    text = plain(text)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _wrapped(label, length=_LABEL):
    """Return a label on as many lines as it needs, so that arms differ."""
    return "\n".join(textwrap.wrap(plain(label), length))


def _inches(text, size=_SIZE):
    """Return the width of the widest line; call it within `_style`."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    measure = text_to_path.get_text_width_height_descent
    lines = text.split("\n")
    return max(measure(line, font, False)[0] for line in lines) / 72


def _family_order(family):
    place = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
    return place, family


# --- What a figure says about its records ----------------------------------


def _one_target(records, mix):
    """Return the records in order, or refuse them."""
    statistics.require_comparable(records, mix)
    if not records:
        raise KTransferError(
            "E_RECORD", "no records to draw; expected one or more. Run first."
        )
    targets = sorted({record["target"] for record in records})
    if len(targets) > 1:
        raise KTransferError(
            "E_ARGUMENT",
            f"a figure shows one target, got records of {', '.join(targets)}. "
            "Select one.",
        )
    return statistics.ordered(records)


def _count(number, noun):
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _measured(records):
    return [r for r in records if r["status"] in ("ok", "diverged")]


def describe(records):
    """Return what was compared: source, target, seeds and source seeds."""
    measured = _measured(records)
    sources = sorted(
        {"+".join(r.get("source_origins") or ()) for r in measured}
    )
    sources = [source for source in sources if source]
    targets = sorted({str(r.get("target_origin")) for r in measured})
    cells = statistics.cells(measured).values()
    counts = sorted({len({r["seed"] for r in cell}) for cell in cells}) or [0]
    seeds = _count(counts[-1], "seed")
    if len(counts) > 1:
        seeds = f"{counts[0]} to {seeds}"
    source_seeds = {r.get("source_seed") for r in measured} - {None}
    if source_seeds:
        seeds += f" × {_count(len(source_seeds), 'source seed')}"
    source = f"source {', '.join(sources)}; " if sources else ""
    return f"{source}target {', '.join(targets)}; {seeds}"


def remarks(records, planned=None):
    """Return the sentences that a figure or table of `records` must carry.

    Args:
        records: those shown.
        planned: number of runs planned; without it the recorded ones count.
    """
    status = [record["status"] for record in records]
    applicable = len(status) - status.count("not_applicable")
    planned = applicable if planned is None else planned
    measured = _measured(records)
    num_diverged = sum(map(statistics.diverged, records))
    num_stale = sum(bool(record.get("stale")) for record in measured)
    environments = {record.get("numerics") for record in measured}
    source_seeds = {r.get("source_seed") for r in measured} - {None}
    notes = []
    if len(measured) < planned:
        failed = status.count("failed")
        detail = f" ({failed:,} failed)" if failed else ""
        notes.append(f"{len(measured):,} of {planned:,} runs{detail}")
    if num_diverged:
        runs = _count(num_diverged, "run")
        notes.append(f"{runs} diverged (×), counted as accuracy 0")
    if num_stale:
        notes.append(
            f"† {_count(num_stale, 'stale run')}, of older code or data"
        )
    if len(environments) > 1:
        notes.append(f"{len(environments)} numeric environments mixed")
    if len(source_seeds) == 1:
        notes.append("conditional on one source network")
    return notes


def _display(label, records):
    stale = any(record.get("stale") for record in records)
    return _wrapped(f"{label} †" if stale else label)


# --- Page ------------------------------------------------------------------


def _page(height, title, subtitle, footer):
    """Return a figure with its texts; `height` in inches is for the rest.

    Returns:
        (figure, top, bottom): the inches from the lower edge between which
        the caller may draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heading = [
        (12.0, "#000000", textwrap.wrap(plain(title), 92)),
        (_SIZE, _MUTED, textwrap.wrap(plain(subtitle), 132)),
    ]
    footing = [line for text in footer for line in textwrap.wrap(text, 145)]
    above = 0.12 + sum(0.0215 * size * len(lines) for size, _, lines in heading)
    below = 0.1 + 0.17 * len(footing)
    figure = Figure(figsize=(_WIDTH, above + height + below))
    FigureCanvasAgg(figure)
    y = above + height + below - 0.1
    for size, tint, lines in heading:
        for line in lines:
            _text(figure, 0.12, y, line, fontsize=size, color=tint, va="top")
            y -= 0.0215 * size
    for number, line in enumerate(footing):
        y = below - 0.06 - 0.17 * number
        _text(figure, 0.12, y, line, fontsize=8, color=_MUTED, va="top")
    return figure, below + height, below


def _text(figure, x, y, text, **options):
    """Put `text` at (x, y) inches from the lower left corner."""
    options = {"va": "center", **options}
    figure.text(x, y, text, transform=figure.dpi_scale_trans, **options)


def _axes(figure, left, bottom, right, top):
    width, height = figure.get_size_inches()
    return figure.add_axes(
        (
            left / width,
            bottom / height,
            (right - left) / width,
            (top - bottom) / height,
        )
    )


# --- Accuracy against labels -----------------------------------------------


def accuracy_against_labels(
    records,
    controls=("scratch", "random_features"),
    title="",
    subtitle="",
    highlight=None,
    mix=False,
    planned=None,
):
    """Draw test accuracy against labels per class, one line an arm.

    Every run that ended well is a dot, the bar is the t-interval over seeds,
    and a run that diverged is a cross at the foot of its budget. Dots are set
    aside by a few per cent on the logarithmic axis so as not to hide others.
    Where the best accuracies crowd below 100 % the other axis is logarithmic
    in the error, and says so.

    Args:
        records: of one target.
        controls: methods drawn thick, in black and grey.
        highlight: labels of arms, or methods, to draw in colour; all others
            become thin grey lines. None colours every arm.
        mix: accept records of several numeric environments, and say so.
        planned: number of runs planned, for the note "12 of 20 runs".

    Returns:
        A matplotlib `Figure`; accuracies are in per cent.

    Raises:
        KTransferError: `E_RECORD` for no records or ones that should not
            meet, `E_ARGUMENT` for several targets.
    """
    records = _one_target(records, mix)
    with _style():
        groups = statistics.arms(records)
        places = _places(records)
        lines = _lines(groups, places)
        named = [
            line
            for line in lines
            if highlight is None
            or {line.label, line.method} & {*highlight, *controls}
        ]
        limits, outside = _accuracy_limits(lines)
        footer = _label_footer(records, outside, planned)
        width = _legend_width(named, groups, len(named) < len(lines))
        height = max(4.4, 0.5 + 0.2 * math.ceil(len(named) / _columns(named)))
        figure, top, bottom = _page(height, title, subtitle, footer)
        axes = _axes(figure, 0.75, bottom + 0.6, _WIDTH - width, top - 0.12)
        _label_axes(axes, places)
        _accuracy_axis(axes, limits, records)
        handles = _draw_lines(axes, lines, named, controls)
        _legend(figure, axes, handles, groups, len(_others(lines, named)))
        return figure


def _others(lines, named):
    return [line for line in lines if line not in named]


def _places(records):
    """Return a dict labels_per_class -> place on the axis, in order."""
    places = {}
    for labels in {r["labels_per_class"] for r in _measured(records)}:
        if labels is not None:
            places[labels] = float(labels)
            continue
        counts = [
            r["num_labels"] / r["num_classes"]
            for r in _measured(records)
            if r["labels_per_class"] is None
        ]
        places[None] = float(np.mean(counts))
    return dict(sorted(places.items(), key=lambda item: item[1]))


def _lines(groups, places):
    lines = []
    for label, members in groups.items():
        points = []
        for labels, x in places.items():
            cell = [r for r in members if r["labels_per_class"] == labels]
            _, values = statistics.seed_accuracies(cell)
            if len(values):
                points.append(
                    _Point(
                        x,
                        statistics.mean_interval(100.0 * values),
                        [
                            100.0 * statistics.accuracy(r)
                            for r in _measured(cell)
                            if not statistics.diverged(r)
                        ],
                        sum(map(statistics.diverged, cell)),
                    )
                )
        if points:
            first = members[0]
            lines.append(_Line(label, first["method"], first["family"], points))
    return sorted(lines, key=_final, reverse=True)


def _final(line):
    """Sort key: the arms that reach furthest first, then by accuracy."""
    return line.points[-1].x, line.points[-1].interval.mean, line.label


def _fence(values, width=3.0):
    """Return (low, high) outside which a value would squash the axis."""
    first, third = np.quantile(values, (0.25, 0.75))
    slack = width * max(third - first, 2.0)
    return first - slack, third + slack


def _accuracy_limits(lines):
    """Return the extremes to show and the (label, mean) of arms far below."""
    means = [p.interval.mean for line in lines for p in line.points]
    if not means:
        return (0.0, 100.0), []
    floor = _fence(means)[0]
    shown = [v for v in means if v >= floor]
    outside = []
    for line in lines:
        if all(p.interval.mean < floor for p in line.points):
            outside.append((line.label, line.points[-1].interval.mean))
        for point in line.points:
            shown += [v for v in point.accuracies if v >= floor]
            if not point.num_diverged and point.interval.count > 1:
                ends = point.interval.low, point.interval.high
                shown += [min(v, 100.0) for v in ends if v >= floor]
    return (min(shown), max(shown)), outside


def _label_footer(records, outside, planned):
    notes = remarks(records, planned)
    if outside:
        names = ", ".join(f"{plain(arm)} ({v:.1f} %)" for arm, v in outside)
        notes.append(f"below the axis: {names}")
    kind = "bars: 95 % t-interval over seeds; dots: runs"
    return [f"{describe(records)}; {kind}", "; ".join(notes)]


def _columns(named):
    return 1 if len(named) <= 26 else 2


def _legend_width(named, groups, others):
    labels = [_display(line.label, groups[line.label]) for line in named]
    labels += ["other methods (99)"] if others else []
    longest = max(map(_inches, labels), default=0.0)
    return 0.25 + _columns(named) * (longest + 0.5)


def _label_axes(axes, places):
    axes.set_xscale("log")
    ticks = list(places.values())
    names = [
        f"all ({x:,.0f})" if labels is None else f"{labels:,}"
        for labels, x in places.items()
    ]
    axes.set_xticks(ticks, names)
    axes.set_xticks([], minor=True)
    gap = _gap(ticks)
    if ticks:
        axes.set_xlim(
            10 ** (math.log10(ticks[0]) - 0.45 * gap),
            10 ** (math.log10(ticks[-1]) + 0.45 * gap),
        )
    axes.set_xlabel("labelled images per class (log scale)")
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)


def _accuracy_axis(axes, limits, records):
    """Set the scale: of the error where accuracies crowd below 100 %."""
    low, high = limits
    images = min(r.get("num_test_images") or 1_000 for r in records)
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
    ticks = [v for v in _ACCURACY_TICKS if axes.get_ylim()[0] <= v <= high]
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
    labels = sorted(line.label for line in lines)
    return {
        label: (10 ** (step * (k - middle)), 10 ** (step * (k - middle + 0.4)))
        for k, label in enumerate(labels)
    }


def _draw_lines(axes, lines, named, controls):
    """Draw every line; return the legend's handles: a dict label -> artist."""
    chosen = markers({li.label: (li.method, li.family) for li in named})
    offsets = _offsets(named)
    for line in _others(lines, named):
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
    handles = {}
    for line in named:
        handles[line.label] = _draw_line(
            axes,
            line,
            offsets[line.label],
            chosen[line.label],
            line.label in controls,
        )
    return handles


def _draw_line(axes, line, offsets, marker, thick):
    """Draw bars, dots, crosses and means; return the line of the means."""
    tint = colour(line.method, line.family)
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
        _dots(axes, dots, point.accuracies, tint, f"runs of {line.label}")
    _crosses(axes, line, offset, tint)
    (artist,) = axes.plot(
        xs,
        means,
        color=tint,
        linewidth=2.6 if thick else 1.4,
        marker=marker,
        markersize=(8.0 if thick else 7.0) * _MARKER_SIZES.get(marker, 1.0),
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=order + 0.2,
        gid=f"mean of {line.label}",
    )
    return artist


def _dots(axes, xs, ys, tint, gid):
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
            gid=f"diverged of {line.label}",
        )


def _legend(figure, axes, handles, groups, num_others):
    from matplotlib.lines import Line2D

    artists = list(handles.values())
    labels = [_display(label, groups[label]) for label in handles]
    if num_others:
        artists.append(Line2D([], [], color=_OTHERS_COLOUR, marker="."))
        labels.append(f"other methods ({num_others})")
    if not artists:
        return
    legend = axes.legend(
        artists,
        # Set below: matplotlib leaves out a label with a leading underscore.
        [str(number) for number in range(len(labels))],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        frameon=False,
        fontsize=_SIZE,
        ncols=_columns(handles),
        handlelength=1.8,
        columnspacing=1.0,
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


# --- Forest ----------------------------------------------------------------


def forest(
    records,
    baseline="scratch",
    title="",
    subtitle="",
    labels_per_class=...,
    mix=False,
    planned=None,
):
    """Draw the paired gain of every arm over the baseline, one row an arm.

    The mark is the mean gain in percentage points, the bar its t-interval
    over seeds, and every seed is a dot (averaged over source seeds); a seed
    with a diverged run is a cross at the left edge. Columns of text give
    gain, accuracy, seconds, trainable parameters and seeds. Inapplicable
    methods are listed below, in grey, with their reason.

    Args:
        records: of one target.
        baseline: a method with one arm, or an arm's label.
        labels_per_class: the budget to show; None is all labels. Needed when
            the records hold several.
        mix: accept records of several numeric environments, and say so.
        planned: number of runs planned, for the note "12 of 20 runs".

    Returns:
        A matplotlib `Figure`.

    Raises:
        KTransferError: `E_RECORD` for no records or ones that should not
            meet, `E_ARGUMENT` for several targets or budgets.
    """
    records = _one_target(records, mix)
    budget = _one_budget(records, labels_per_class)
    rows, excluded = _forest_rows(records, baseline, budget)
    shown = [r for row in rows for r in row.records]
    shown += [r for members in excluded.values() for r in members]
    footer = _forest_footer(shown, budget, planned)
    # A figure of many rows is read from both ends.
    crown = 0.35 if len(rows) <= _TALL else 0.45
    with _style():
        row_height = _row_height(rows)
        height = crown + 0.5 + row_height * max(len(rows), 1)
        height += (0.3 + _ROW * len(excluded)) if excluded else 0.0
        figure, top, bottom = _page(height, title, subtitle, footer)
        lower = top - crown - row_height * max(len(rows), 1)
        left, columns = _forest_columns(rows, excluded)
        right = columns["gain"] - _gain_width(rows) - 0.1
        _write_rows(figure, rows, top - crown, columns, left)
        axes = _axes(figure, left, lower, right, top - crown)
        _draw_forest(axes, rows)
        name = _shorten(baseline, 24)
        axes.set_xlabel(f"gain over {name} (percentage points)")
        _list_excluded(figure, excluded, lower - 0.75, left)
        return figure


_ROW = 0.235
_TALL = 15
_FAMILY_WIDTH = 0.9
_GAIN_TITLE = "gain [95 %], pp"


def _one_budget(records, labels_per_class):
    budgets = {r["labels_per_class"] for r in _measured(records) or records}
    if labels_per_class is ... and len(budgets) == 1:
        return next(iter(budgets))
    if labels_per_class is ... or labels_per_class not in budgets:
        names = sorted("None (all)" if b is None else str(b) for b in budgets)
        raise KTransferError(
            "E_ARGUMENT",
            "a forest shows one number of labels per class; the records hold "
            f"{', '.join(names)}. Choose one with labels_per_class=.",
        )
    return labels_per_class


def _forest_rows(records, baseline, budget):
    """Return the measured rows, in order, and the inapplicable arms."""
    gains = statistics.gain_over(records, baseline)
    rows, excluded = [], {}
    for cell, members in statistics.cells(records).items():
        if cell.labels_per_class != budget:
            continue
        if all(r["status"] == "not_applicable" for r in members):
            excluded[cell.arm] = members
            continue
        _, values = statistics.seed_accuracies(members)
        rows.append(
            _Row(
                cell.arm,
                members[0]["method"],
                members[0]["family"],
                members,
                statistics.mean_interval(values),
                gains.get(cell),
            )
        )
    return sorted(rows, key=_forest_order), excluded


def _forest_order(row):
    gain = 0.0 if row.gain is None else row.gain.interval.mean
    worst = -math.inf if math.isnan(gain) else gain
    return _family_order(row.family), -worst, row.label


def _forest_footer(records, budget, planned):
    labels = "all labels" if budget is None else f"{budget:,} labels per class"
    kind = (
        "bars: 95 % t-interval of the paired gain; dots: seeds; "
        "seconds: median of a run"
    )
    return [
        f"{describe(records)}; {labels}",
        kind,
        "; ".join(remarks(records, planned)),
    ]


def _forest_columns(rows, excluded):
    """Return the plot's left edge and the right edges of the text columns."""
    labels = [_display(row.label, row.records) for row in rows]
    labels += [_shorten(label, _LABEL) for label in excluded]
    longest = max(map(_inches, labels), default=1.0)
    left = 0.12 + _FAMILY_WIDTH + longest + 0.1
    notes = max((_inches(_note(row), 8) for row in rows), default=0.0)
    edge = _WIDTH - (0.2 + notes if notes else 0.12)
    columns = {}
    for name, width in (
        ("n", 0.35),
        ("trainable", 0.75),
        ("seconds", 0.7),
        ("accuracy", 0.75),
        ("gain", 0.0),
    ):
        columns[name] = edge
        edge -= width
    return left, columns


def _row_height(rows):
    labels = [_display(row.label, row.records) for row in rows]
    num_lines = max((label.count("\n") + 1 for label in labels), default=1)
    return _ROW + 0.15 * (num_lines - 1)


def _gain_width(rows):
    texts = [_GAIN_TITLE] + [_gain_text(row.gain) for row in rows]
    return max(map(_inches, texts))


def _note(row):
    """Return what is wrong with a row's runs, for the margin."""
    num_diverged = sum(map(statistics.diverged, row.records))
    failed = sum(r["status"] == "failed" for r in row.records)
    parts = [f"{num_diverged} diverged"] if num_diverged else []
    parts += [f"{failed} failed"] if failed else []
    return ", ".join(parts)


def _write_rows(figure, rows, top, columns, left):
    for name, x in columns.items():
        title = {"gain": _GAIN_TITLE, "accuracy": "acc. %"}.get(name, name)
        _text(
            figure, x, top + 0.12, title, ha="right", color=_MUTED, fontsize=8
        )
    family, height = None, _row_height(rows)
    for number, row in enumerate(rows):
        y = top - height * (number + 0.5)
        if number % 2 == 0:
            _stripe(figure, y, height)
        if row.family != family:
            family = row.family
            name = _shorten(family, 13)
            _text(figure, 0.12, y, name, color=_MUTED, fontsize=8)
        label = _display(row.label, row.records)
        _text(figure, left - 0.1, y, label, ha="right", linespacing=1.0)
        for name, text in _row_texts(row).items():
            _text(figure, columns[name], y, text, ha="right")
        if note := _note(row):
            x = columns["n"] + 0.08
            _text(figure, x, y, note, color=_FAULT, fontsize=8)


def _stripe(figure, y, height):
    from matplotlib.patches import Rectangle

    figure.add_artist(
        Rectangle(
            (0.06, y - height / 2),
            _WIDTH - 0.12,
            height,
            transform=figure.dpi_scale_trans,
            facecolor="#F4F4F4",
            edgecolor="none",
            zorder=-1,
        )
    )


def _row_texts(row):
    seconds = [r["seconds"] for r in _measured(row.records) if r.get("seconds")]
    trainable = [
        r["trainable_parameters"]
        for r in _measured(row.records)
        if r.get("trainable_parameters") is not None
    ]
    mean = row.accuracy.mean
    return {
        "gain": _gain_text(row.gain),
        "accuracy": "–" if math.isnan(mean) else f"{100 * mean:.1f}",
        "seconds": format_seconds(median(seconds)) if seconds else "–",
        "trainable": format_count(max(trainable)) if trainable else "–",
        "n": str(row.accuracy.count),
    }


def _gain_text(gain):
    if gain is None:
        return "baseline"
    mean, low, high, _ = gain.interval
    if math.isnan(mean):
        return "–"
    text = f"{_signed(mean)}"
    if not math.isnan(low):
        text += f" [{_signed(low)}, {_signed(high)}]"
    return text


def _signed(fraction):
    """Return a gain in percentage points, with a sign and one decimal."""
    text = f"{100 * fraction:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def format_seconds(seconds):
    """Return seconds as `0.8`, `12` or `3,400`: two digits or more."""
    return f"{seconds:.1f}" if seconds < 9.95 else f"{seconds:,.0f}"


def format_count(number):
    """Return a count as `0`, `950`, `5.1k`, `530k` or `1.3M`."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            value = number / size
            return (
                f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
            )
    return f"{number:.0f}"


def _forest_limits(rows):
    """Return the limits of the axis, in percentage points."""
    values = [0.0]
    for row in rows:
        # One diverged run widens a bar to tens of points; the bar is cut.
        if row.gain is None or any(map(statistics.diverged, row.records)):
            continue
        ends = [*row.gain.interval[:3], *row.gain.differences]
        values += [100 * v for v in ends if not math.isnan(v)]
    low, high = _fence(values)
    kept = [v for v in values if low <= v <= high] + [0.0]
    pad = 0.08 * max(max(kept) - min(kept), 1.0)
    return min(kept) - pad, max(kept) + pad


def _draw_forest(axes, rows):
    axes.patch.set_visible(False)
    axes.set_ylim(max(len(rows), 1), 0)
    axes.set_yticks([])
    axes.set_xlim(_forest_limits(rows))
    axes.spines["left"].set_visible(False)
    axes.axvline(0.0, color="#303030", linewidth=1.0, zorder=1, gid="no gain")
    axes.grid(axis="x", color="#E0E0E0", linewidth=0.6)
    axes.set_axisbelow(True)
    if len(rows) > _TALL:
        axes.tick_params(axis="x", top=True, labeltop=True)
    chosen = markers({row.label: (row.method, row.family) for row in rows})
    for number, row in enumerate(rows):
        _draw_row(axes, row, number + 0.5, chosen[row.label])


def _draw_row(axes, row, y, marker):
    tint = colour(row.method, row.family)
    if row.gain is None:
        _mark(axes, 0.0, y, tint, marker, f"baseline {row.label}")
        return
    faulty = {r["seed"] for r in row.records if statistics.diverged(r)}
    kept = [
        100.0 * difference
        for seed, difference in zip(
            row.gain.seeds, row.gain.differences, strict=True
        )
        if seed not in faulty
    ]
    heights = [y + 0.24] * len(kept)
    _dots(axes, kept, heights, tint, f"seeds of {row.label}")
    _edge(axes, "x", _FAULT, y, len(faulty), f"diverged of {row.label}")
    mean, low, high, count = row.gain.interval
    if count > 1:
        axes.plot([100 * low, 100 * high], [y, y], color=tint, linewidth=1.6)
    left, right = axes.get_xlim()
    if 100 * mean < left:
        start = 1 if not faulty else 2 + len(faulty)
        _edge(axes, "<", tint, y, 1, f"off the axis: {row.label}", start)
    elif count:
        _mark(axes, 100 * mean, y, tint, marker, f"gain of {row.label}")


def _mark(axes, x, y, tint, marker, gid):
    axes.plot(
        [x],
        [y],
        linestyle="none",
        marker=marker,
        markersize=7 * _MARKER_SIZES.get(marker, 1.0),
        color=tint,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=4,
        gid=gid,
    )


def _edge(axes, marker, tint, y, count, gid, start=1):
    """Put `count` markers side by side at the left edge of a row."""
    if count:
        axes.plot(
            [0.015 * (start + 2 * k) for k in range(count)],
            [y] * count,
            linestyle="none",
            marker=marker,
            markersize=5.5,
            markeredgewidth=1.4,
            color=tint,
            transform=axes.get_yaxis_transform(),
            zorder=5,
            gid=gid,
        )


def _list_excluded(figure, excluded, top, left):
    if not excluded:
        return
    grey = "#8A8A8A"
    _text(
        figure, 0.12, top + 0.1, "not applicable here", color=grey, fontsize=8
    )
    length = int((_WIDTH - left - 0.1) / _inches("x", 8))
    for number, (label, members) in enumerate(sorted(excluded.items())):
        y = top - _ROW * (number + 0.5)
        name = _shorten(label, _LABEL)
        _text(figure, left - 0.1, y, name, ha="right", color=grey)
        reason = _shorten(members[0].get("reason") or "no reason given", length)
        _text(figure, left, y, reason, color=grey, fontsize=8)


# --- Files -----------------------------------------------------------------


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
    metadata = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
    }
    if kind not in metadata:
        raise KTransferError(
            "E_ARGUMENT",
            f"cannot save a figure as {path.name!r}; expected .png or .svg.",
        )
    buffer = io.BytesIO()
    with _style():
        figure.savefig(
            buffer, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata[kind]
        )
    files.write(path, buffer.getvalue())
