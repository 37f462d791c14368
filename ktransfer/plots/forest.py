"""The paired gain of every arm over a baseline, one row an arm."""

import math
from statistics import median
from typing import NamedTuple

from ktransfer.analysis import arms, intervals, outcomes, words
from ktransfer.analysis.record import Record
from ktransfer.analysis.remarks import compared
from ktransfer.errors import KTransferError
from ktransfer.plots import captions, style
from ktransfer.plots.looks import looks

_ROW = 0.235
_TALL = 15
_FAMILY_WIDTH = 0.9
_GAIN_TITLE = "gain [95 %], pp"
_FAULT = "#B00020"
_FAINT = "#8A8A8A"


class _Row(NamedTuple):
    """One arm; `name` is its label as drawn, `gain` None for the baseline."""

    arm: arms.Arm
    name: str
    records: list[Record]
    accuracy: intervals.Interval
    gain: intervals.Gain | None


def forest(
    records,
    baseline="scratch",
    title="",
    subtitle="",
    labels_per_class=...,
    mix=False,
):
    """Draw the paired gain of every arm over the baseline, one row an arm.

    The mark is the mean gain in percentage points, the bar its t-interval
    over seeds, and every seed is a dot (averaged over source seeds); a seed
    with a diverged run is a cross at the left edge. Columns of text give
    gain, accuracy, seconds, trainable parameters and seeds. Inapplicable
    methods are listed below, in grey, with their reason.

    Args:
        records: of one target.
        baseline: a method with one arm, or fields that select an arm.
        labels_per_class: the budget to show; None is all labels. Needed when
            the records hold several.
        mix: accept records of several numeric environments, and say so.

    Returns:
        A matplotlib `Figure`.

    Raises:
        KTransferError: `E_RECORD` for no records or ones that should not
            meet, `E_ARGUMENT` for several targets or budgets.
    """
    records = captions.one_target(records, mix)
    budget = _one_budget(records, labels_per_class)
    rows, excluded = _rows(records, baseline, budget)
    # A figure of many rows is read from both ends.
    crown = 0.35 if len(rows) <= _TALL else 0.45
    row_height = _row_height(rows)
    height = row_height * max(len(rows), 1)
    tail = 0.3 + _ROW * len(excluded) if excluded else 0.0
    footer = _footer(rows, excluded, budget)
    with style.in_style():
        figure, top, _ = style.page(
            crown + 0.5 + height + tail, title, subtitle, footer
        )
        upper = top - crown
        left, columns = _columns(rows, excluded)
        right = columns["gain"] - _gain_width(rows) - 0.1
        _write_rows(figure, rows, upper, row_height, columns, left)
        axes = style.axes(figure, left, upper - height, right, upper)
        _draw(axes, rows)
        name = words.shorten(arms.baseline_name(records, baseline), 24)
        axes.set_xlabel(f"gain over {name} (percentage points)")
        _list_excluded(figure, excluded, upper - height - 0.75, left)
        return figure


def _one_budget(records, labels_per_class):
    budgets = {
        r["labels_per_class"] for r in outcomes.measured(records) or records
    }
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


def _rows(records, baseline, budget):
    """Return the measured rows, in order, and the inapplicable arms."""
    gains = intervals.gain_over(records, baseline)
    rows, excluded = [], {}
    for cell, members in arms.cells(records).items():
        if cell.labels_per_class != budget:
            continue
        if all(r["status"] == "not_applicable" for r in members):
            excluded[cell.arm] = members
            continue
        rows.append(
            _Row(
                cell.arm,
                captions.name(cell.arm, members),
                members,
                intervals.mean_interval(outcomes.seed_values(members)),
                gains.get(cell),
            )
        )
    return sorted(rows, key=_order), excluded


def _order(row):
    families, family = style.FAMILIES, row.arm.family
    place = families.index(family) if family in families else len(families)
    gain = 0.0 if row.gain is None else row.gain.interval.mean
    worth = math.inf if math.isnan(gain) else -gain
    return place, family, worth, row.arm.label


def _footer(rows, excluded, budget):
    shown = [record for row in rows for record in row.records]
    shown += [record for members in excluded.values() for record in members]
    return [
        f"{compared(shown)}; {words.labels(budget)}",
        "bars: 95 % t-interval of the paired gain; dots: seeds; "
        "seconds: of the processor, median of a run",
        "; ".join(captions.remarks(shown)),
    ]


def _columns(rows, excluded):
    """Return the plot's left edge and the right edges of the text columns."""
    names = [row.name for row in rows]
    names += [
        words.shorten(arm.label, captions.LONGEST_LABEL) for arm in excluded
    ]
    longest = max(map(style.inches, names), default=1.0)
    left = 0.12 + _FAMILY_WIDTH + longest + 0.1
    notes = max((style.inches(_note(row), 8) for row in rows), default=0.0)
    edge = style.WIDTH - (0.2 + notes if notes else 0.12)
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
    num_lines = max((row.name.count("\n") + 1 for row in rows), default=1)
    return _ROW + 0.15 * (num_lines - 1)


def _gain_width(rows):
    texts = [_GAIN_TITLE] + [_gain_text(row.gain) for row in rows]
    return max(map(style.inches, texts))


def _note(row):
    """Return what is wrong with a row's runs, for the margin."""
    num_diverged = sum(map(outcomes.diverged, row.records))
    failed = sum(r["status"] == "failed" for r in row.records)
    parts = [f"{num_diverged} diverged"] if num_diverged else []
    parts += [f"{failed} failed"] if failed else []
    return ", ".join(parts)


def _write_rows(figure, rows, top, height, columns, left):
    small = {"color": style.MUTED, "fontsize": 8}
    for name, x in columns.items():
        title = {"gain": _GAIN_TITLE, "accuracy": "acc. %"}.get(name, name)
        style.write(figure, x, top + 0.12, title, ha="right", **small)
    family = None
    for number, row in enumerate(rows):
        y = top - height * (number + 0.5)
        if number % 2 == 0:
            _stripe(figure, y, height)
        if row.arm.family != family:
            family = row.arm.family
            name = words.shorten(family, 13)
            style.write(figure, 0.12, y, name, **small)
        style.write(
            figure, left - 0.1, y, row.name, ha="right", linespacing=1.0
        )
        for name, text in _row_texts(row).items():
            style.write(figure, columns[name], y, text, ha="right")
        if note := _note(row):
            x = columns["n"] + 0.08
            style.write(figure, x, y, note, color=_FAULT, fontsize=8)


def _stripe(figure, y, height):
    from matplotlib.patches import Rectangle

    figure.add_artist(
        Rectangle(
            (0.06, y - height / 2),
            style.WIDTH - 0.12,
            height,
            transform=figure.dpi_scale_trans,
            facecolor="#F4F4F4",
            edgecolor="none",
            zorder=-1,
        )
    )


def _row_texts(row):
    seconds = outcomes.values(row.records, "seconds")
    trainable = outcomes.values(row.records, "trainable_parameters")
    mean = row.accuracy.mean
    return {
        "gain": _gain_text(row.gain),
        "accuracy": "–" if math.isnan(mean) else f"{100 * mean:.1f}",
        "seconds": words.format_seconds(median(seconds)) if seconds else "–",
        "trainable": words.format_count(max(trainable)) if trainable else "–",
        "n": str(row.accuracy.count),
    }


def _gain_text(gain):
    if gain is None:
        return "baseline"
    text = words.percent(gain.interval[:3], "+.1f")
    return "–" if text == "-" else text.replace("-", "−")


def _limits(rows):
    """Return the limits of the axis, in percentage points."""
    values = [0.0]
    for row in rows:
        # One diverged run widens a bar to tens of points; the bar is cut.
        if row.gain is None or any(map(outcomes.diverged, row.records)):
            continue
        ends = [*row.gain.interval[:3], *row.gain.differences]
        values += [100 * v for v in ends if not math.isnan(v)]
    low, high = style.fence(values)
    kept = [v for v in values if low <= v <= high] + [0.0]
    pad = 0.08 * max(max(kept) - min(kept), 1.0)
    return min(kept) - pad, max(kept) + pad


def _draw(axes, rows):
    axes.patch.set_visible(False)
    axes.set_ylim(max(len(rows), 1), 0)
    axes.set_yticks([])
    axes.set_xlim(_limits(rows))
    axes.spines["left"].set_visible(False)
    axes.axvline(0.0, color="#303030", linewidth=1.0, zorder=1, gid="no gain")
    axes.grid(axis="x", color="#E0E0E0", linewidth=0.6)
    axes.set_axisbelow(True)
    if len(rows) > _TALL:
        axes.tick_params(axis="x", top=True, labeltop=True)
    chosen = looks({row.arm.label: row.arm.method for row in rows})
    for number, row in enumerate(rows):
        _draw_row(axes, row, number + 0.5, chosen[row.arm.label])


def _draw_row(axes, row, y, look):
    label, tint = row.arm.label, look.colour
    if row.gain is None:
        _mark(axes, 0.0, y, look, f"baseline {label}")
        return
    faulty = {r["seed"] for r in row.records if outcomes.diverged(r)}
    _draw_seeds(axes, row, y, faulty, tint)
    _edge(axes, "x", _FAULT, y, len(faulty), f"diverged of {label}")
    mean, low, high, count = row.gain.interval
    if count > 1:
        axes.plot([100 * low, 100 * high], [y, y], color=tint, linewidth=1.6)
    left, right = axes.get_xlim()
    if 100 * mean < left:
        start = 1 if not faulty else 2 + len(faulty)
        _edge(axes, "<", tint, y, 1, f"off the axis: {label}", start)
    elif count:
        _mark(axes, 100 * mean, y, look, f"gain of {label}")


def _draw_seeds(axes, row, y, faulty, tint):
    """Draw a dot for the gain of each seed that is not `faulty`."""
    seeds = zip(row.gain.seeds, row.gain.differences, strict=True)
    kept = [100.0 * gain for seed, gain in seeds if seed not in faulty]
    heights = [y + 0.24] * len(kept)
    style.dots(axes, kept, heights, tint, f"seeds of {row.arm.label}")


def _mark(axes, x, y, look, gid):
    style.means(axes, [x], [y], look, linestyle="none", zorder=4, gid=gid)


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
    small = {"color": _FAINT, "fontsize": 8}
    style.write(figure, 0.12, top + 0.1, "not applicable here", **small)
    length = int((style.WIDTH - left - 0.1) / style.inches("x", 8))
    rows = sorted(excluded.items(), key=lambda item: item[0].label)
    for number, (arm, members) in enumerate(rows):
        y = top - _ROW * (number + 0.5)
        name = words.shorten(arm.label, captions.LONGEST_LABEL)
        style.write(figure, left - 0.1, y, name, ha="right", color=_FAINT)
        reason = members[0]["reason"] or "no reason given"
        style.write(figure, left, y, words.shorten(reason, length), **small)
