"""Tables from records alone: Markdown, CSV and the terminal.

Rows hold fractions; texts show percentages and percentage points with one
decimal. A badge is a claim, so it asks for five seeds, an interval without 0,
Holm's correction over all arms of the table, and a gain no smaller than the
smallest that the seeds can detect with 80 % power.
"""

import csv
import io
import math
import re
import textwrap
from pathlib import Path
from statistics import median

from ktransfer import files, plots, statistics
from ktransfer.errors import KTransferError

SIGNIFICANCE = 0.05
COLUMNS = (
    "experiment",
    "target",
    "target_origin",
    "labels_per_class",
    "family",
    "method",
    "arm",
    "source",
    "n",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "gain",
    "gain_low",
    "gain_high",
    "p_value",
    "sign_flip",
    "detectable",
    "badge",
    "seconds",
    "source_seconds",
    "trainable_parameters",
    "total_parameters",
    "ok",
    "diverged",
    "failed",
    "not_applicable",
    "stale",
    "labels",
    "source_seeds",
    "baseline",
    "environments",
    "reason",
)


# --- Rows ------------------------------------------------------------------


def table(records, baseline="scratch", mix=False):
    """Return one row a cell: an arm at one number of labels per class.

    Args:
        records: of any number of targets and budgets.
        baseline: a method with one arm, or an arm's label.
        mix: accept records of several numeric environments, and count them.

    Returns:
        A list of dicts with the keys `COLUMNS`, by target, labels per class
        and falling accuracy; inapplicable arms come last. Accuracies and
        gains are fractions, nan where there is none; `labels` is the mean
        number of labelled images per class; `badge` is one of better, worse,
        undecided, too few seeds, control and not applicable.

    Raises:
        KTransferError: `E_RECORD` for records that should not meet, and what
            `statistics.gain_over` raises.
    """
    environments = statistics.require_comparable(records, mix)
    records = statistics.ordered(records)
    gains = statistics.gain_over(records, baseline)
    cells = statistics.cells(records)
    badges = _badges(cells, gains)
    baseline = statistics.baseline_arm(records, baseline) or baseline
    rows = []
    for cell, members in cells.items():
        row = _identity(cell, members)
        row.update(_numbers(members, gains.get(cell)), badge=badges[cell])
        row.update(_counts(members), environments=environments)
        row["baseline"] = baseline
        rows.append({key: row[key] for key in COLUMNS})
    return sorted(rows, key=_row_order)


def _row_order(row):
    budget = row["labels_per_class"]
    mean = row["accuracy"]
    return (
        row["target"],
        math.inf if budget is None else budget,
        row["badge"] == "not applicable",
        math.inf if math.isnan(mean) else -mean,
        row["arm"],
    )


def _identity(cell, members):
    first = members[0]
    labels = [
        r["num_labels"] / r["num_classes"]
        for r in members
        if r.get("num_labels") and r.get("num_classes")
    ]
    return {
        "experiment": first["experiment"],
        "target": cell.target,
        "target_origin": str(first.get("target_origin") or cell.target),
        "labels_per_class": cell.labels_per_class,
        "family": first["family"],
        "method": first["method"],
        "arm": cell.arm,
        "source": "+".join(first.get("source_origins") or ()),
        "labels": sum(labels) / len(labels) if labels else math.nan,
        "reason": _reason(members),
    }


def _reason(members):
    reasons = [r.get("reason") or "" for r in members]
    return "; ".join(dict.fromkeys(filter(None, reasons)))


def _numbers(members, gain):
    nothing = statistics.Interval(math.nan, math.nan, math.nan, 0)
    _, values = statistics.seed_accuracies(members)
    accuracy = statistics.mean_interval(values)
    difference = nothing if gain is None else gain.interval
    return {
        "n": accuracy.count,
        "accuracy": float(accuracy.mean),
        "accuracy_low": float(accuracy.low),
        "accuracy_high": float(accuracy.high),
        "gain": float(difference.mean),
        "gain_low": float(difference.low),
        "gain_high": float(difference.high),
        "p_value": math.nan if gain is None else gain.p_value,
        "sign_flip": math.nan if gain is None else gain.sign_flip,
        "detectable": math.nan if gain is None else gain.detectable,
        "seconds": _over_runs(members, "seconds", median),
        "source_seconds": _over_runs(members, "source_seconds", median),
        "trainable_parameters": _over_runs(
            members, "trainable_parameters", max
        ),
        "total_parameters": _over_runs(members, "total_parameters", max),
    }


def _over_runs(members, key, combine):
    values = [
        record[key]
        for record in members
        if record["status"] in ("ok", "diverged")
        and record.get(key) is not None
    ]
    return combine(values) if values else math.nan


def _counts(members):
    status = [record["status"] for record in members]
    num_diverged = sum(map(statistics.diverged, members))
    seeds = {record.get("source_seed") for record in members} - {None}
    return {
        "ok": status.count("ok") + status.count("diverged") - num_diverged,
        "diverged": num_diverged,
        "failed": status.count("failed"),
        "not_applicable": status.count("not_applicable"),
        "stale": sum(bool(record.get("stale")) for record in members),
        "source_seeds": len(seeds),
    }


def _badges(cells, gains):
    """Return a dict `Cell` -> badge."""
    compared = [
        cell
        for cell, members in cells.items()
        if cell in gains and members[0]["method"] not in statistics.CONTROLS
    ]
    adjusted = statistics.holm([gains[cell].p_value for cell in compared])
    badges = {
        cell: _badge(gains[cell], p_value)
        for cell, p_value in zip(compared, adjusted, strict=True)
    }
    for cell, members in cells.items():
        badges.setdefault(cell, "control")
        if all(r["status"] == "not_applicable" for r in members):
            badges[cell] = "not applicable"
    return badges


def _badge(gain, adjusted):
    interval = gain.interval
    if not statistics.verdict_allowed(interval.count):
        return "too few seeds"
    if adjusted > SIGNIFICANCE or abs(interval.mean) < gain.detectable:
        return "undecided"
    if statistics.negative_transfer(interval):
        return "worse"
    return "better" if interval.low > 0.0 else "undecided"


# --- Sentences -------------------------------------------------------------


def missing_controls(rows):
    """Return the controls without a measured run, as short texts.

    A control that is there at some label budgets only is named with the
    budgets that lack it.
    """
    places = dict.fromkeys((r["target"], r["labels_per_class"]) for r in rows)
    found = {
        (r["target"], r["labels_per_class"], r["method"])
        for r in rows
        if r["n"]
    }
    missing = []
    for control in statistics.CONTROLS:
        lacking = [place for place in places if (*place, control) not in found]
        if len(lacking) == len(places):
            missing.append(control)
        elif lacking:
            where = ", ".join(_place(rows, *place) for place in lacking)
            missing.append(f"{control} ({where})")
    return missing


def _place(rows, target, labels_per_class):
    text = _labels_text(labels_per_class, math.nan)
    several = len({row["target"] for row in rows}) > 1
    return f"{target}, {text}" if several else text


def _labels_text(labels_per_class, labels):
    if labels_per_class is None:
        mean = "" if math.isnan(labels) else f" ({labels:,.0f} per class)"
        return f"all labels{mean}"
    plural = "" if labels_per_class == 1 else "s"
    return f"{labels_per_class:,} label{plural} per class"


def headline(rows):
    """Return the sentences above a table: data, runs, seeds, cautions."""
    counts = sorted({row["n"] for row in rows if row["n"]}) or [0]
    sources = max((row["source_seeds"] for row in rows), default=0)
    seeds = _number(counts[-1], "seed")
    if len(counts) > 1:
        seeds = f"{counts[0]} to {seeds}"
    if sources:
        seeds += f" x {_number(sources, 'source seed')}"
    sentences = [
        _data_text(rows),
        f"{_runs_text(rows)}; {seeds}; 95 % t-intervals over seeds, "
        "gains paired by seed",
    ]
    if not statistics.verdict_allowed(counts[-1]):
        number = _number(counts[-1], "seed")
        sentences.append(f"smoke run: {number}, no verdict")
    if sources == 1:
        sentences.append("conditional on one source network")
    if stale := sum(row["stale"] for row in rows):
        number = _number(stale, "stale run")
        sentences.append(f"{number}, of older code or data")
    if max((row["environments"] for row in rows), default=0) > 1:
        number = rows[0]["environments"]
        sentences.append(f"{number} numeric environments mixed")
    return sentences


def _number(count, noun):
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _data_text(rows):
    sources = sorted({row["source"] for row in rows if row["source"]})
    targets = sorted({row["target_origin"] for row in rows})
    source = f"source {', '.join(sources)}; " if sources else ""
    return f"{source}target {', '.join(targets)}"


def _runs_text(rows):
    totals = {
        status: sum(row[status] for row in rows)
        for status in ("ok", "diverged", "failed")
    }
    faults = [
        f"{totals[status]:,} {status}"
        for status in ("diverged", "failed")
        if totals[status]
    ]
    extra = f" ({', '.join(faults)})" if faults else ""
    return _number(sum(totals.values()), "run") + extra


def notes(rows):
    """Return the sentences below a table: badges, power, faulty runs."""
    lines = []
    compared = [
        r for r in rows if r["badge"] in ("better", "worse", "undecided")
    ]
    if compared:
        smallest = 100 * median(row["detectable"] for row in compared)
        lines.append(
            "better and worse: the 95 % interval of the gain excludes 0 and "
            f"Holm's correction over {_number(len(compared), 'comparison')} "
            "holds; the "
            "smallest gain that these seeds find with 80 % power is "
            f"{smallest:.1f} pp (median)"
        )
    for row in rows:
        runs = row["ok"] + row["diverged"] + row["failed"]
        where = f"{row['arm']}, {_place(rows, *_place_of(row))}"
        if row["diverged"]:
            lines.append(
                f"{where}: {row['diverged']} of {runs} runs diverged, counted "
                "as accuracy 0"
            )
        if row["failed"]:
            lines.append(
                f"{where}: {row['failed']} of {runs} runs failed"
                + (f": {row['reason']}" if row["reason"] else "")
            )
    return lines


def _place_of(row):
    return row["target"], row["labels_per_class"]


def _groups(rows):
    """Group the measured rows by target and labels per class, with titles."""
    groups = {}
    for row in rows:
        if row["badge"] != "not applicable":
            groups.setdefault(_place_of(row), []).append(row)
    return [
        (f"{target}, {_labels_text(budget, _mean_labels(members))}", members)
        for (target, budget), members in groups.items()
    ]


def _mean_labels(rows):
    labels = [row["labels"] for row in rows if not math.isnan(row["labels"])]
    return sum(labels) / len(labels) if labels else math.nan


def _inapplicable(rows):
    """Return a dict arm -> reason, each arm once."""
    return {
        row["arm"]: row["reason"] or "no reason given"
        for row in rows
        if row["badge"] == "not applicable"
    }


# --- Cells of text ---------------------------------------------------------


def _accuracy_text(row):
    return _with_interval(
        [row["accuracy"], row["accuracy_low"], row["accuracy_high"]], ".1f"
    )


def _gain_text(row):
    if row["arm"] == row["baseline"]:
        return "baseline"
    return _with_interval(
        [row["gain"], row["gain_low"], row["gain_high"]], "+.1f"
    )


def _with_interval(fractions, form):
    mean, low, high = (_percent(value, form) for value in fractions)
    if math.isnan(fractions[0]):
        return "-"
    return mean if math.isnan(fractions[1]) else f"{mean} [{low}, {high}]"


def _percent(fraction, form):
    text = format(100 * fraction, form)
    return "0.0" if text in ("-0.0", "+0.0") else text


def _seconds_text(row):
    seconds = row["seconds"]
    return "-" if math.isnan(seconds) else plots.format_seconds(seconds)


def _count_text(number):
    return "-" if math.isnan(number) else plots.format_count(number)


# --- Markdown --------------------------------------------------------------


def to_markdown(rows):
    """Return the rows as Markdown: cautions, a table a budget, notes.

    Controls that are missing are named in the first line.
    """
    blocks = []
    if missing := missing_controls(rows):
        blocks.append(f"controls missing: {_markdown(', '.join(missing))}")
    blocks.append(_markdown("; ".join(headline(rows)) + "."))
    for title, members in _groups(rows):
        blocks.append(f"### {_markdown(title)}")
        blocks.append(_markdown_table(members))
    excluded = [
        f"- {_code(arm)}: {_markdown(reason)}"
        for arm, reason in _inapplicable(rows).items()
    ]
    if excluded:
        blocks += ["### Not applicable here", "\n".join(excluded)]
    if lines := notes(rows):
        blocks.append("\n".join(f"- {_markdown(line)}" for line in lines))
    return "\n\n".join(blocks) + "\n"


def _markdown_table(rows):
    head = (
        "method",
        "accuracy, %",
        f"gain over {_markdown(rows[0]['baseline'])}, pp",
        "verdict",
        "n",
        "seconds",
        "trainable",
    )
    lines = [
        f"| {' | '.join(head)} |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = (
            _code(row["arm"]) + (" †" if row["stale"] else ""),
            _accuracy_text(row),
            _gain_text(row),
            row["badge"],
            str(row["n"]),
            _seconds_text(row),
            _count_text(row["trainable_parameters"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _markdown(text):
    """Return `text` on one line, its Markdown and HTML marks made plain."""
    text = plots.plain(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*~|$\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _code(text):
    """Return `text` as a code span that a table's cell can hold."""
    text = plots.plain(text).replace("|", "\\|")
    ticks = [len(run) for run in re.findall("`+", text)]
    fence = "`" * (max(ticks, default=0) + 1)
    edge = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{edge}{text}{edge}{fence}"


# --- CSV -------------------------------------------------------------------


def to_csv(rows):
    """Return the rows as CSV by RFC 4180: CRLF, quotes where needed.

    Numbers are fractions with six significant digits; what has no value is
    empty. A text that a spreadsheet would take for a formula starts with '.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_csv_cell(row[key]) for key in COLUMNS])
    return buffer.getvalue()


def _csv_cell(value):
    if value is None:
        return "all"
    if isinstance(value, str):
        return "'" + value if value[:1] in tuple("=+-@\t\r") else value
    if isinstance(value, float):
        return "" if math.isnan(value) else format(value, ".6g")
    return str(value)


# --- Terminal --------------------------------------------------------------


def to_terminal(rows, width=80):
    """Return the rows as plain text no wider than `width`, at least 72.

    Controls carry a star; verdicts are shown from 96 columns on.
    """
    width = max(width, 72)
    lines = []
    if missing := missing_controls(rows):
        lines += _wrap(f"controls missing: {', '.join(missing)}", width)
    for sentence in headline(rows):
        lines += _wrap(sentence, width)
    for title, members in _groups(rows):
        lines += ["", *_wrap(title, width)]
        lines += _terminal_table(members, width)
    excluded = _inapplicable(rows)
    if excluded:
        lines += ["", "not applicable here"]
        for arm, reason in excluded.items():
            lines += _wrap(f"{arm}: {reason}", width, "  ")
    lines += ["", *_wrap("* control", width)]
    for note in notes(rows):
        lines += _wrap(note, width)
    return "\n".join(lines) + "\n"


def _wrap(text, width, indent=""):
    return textwrap.wrap(
        plots.plain(text),
        width,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
    )


def _terminal_table(rows, width):
    title = f"gain over {plots.plain(rows[0]['baseline'])}, pp"
    cells = [["method", "accuracy, %", title[:22], "seconds", "n", "verdict"]]
    for row in rows:
        star = " *" if row["method"] in statistics.CONTROLS else ""
        cells.append(
            [
                plots.plain(row["arm"]) + star + _fault(row),
                _accuracy_text(row),
                _gain_text(row),
                _seconds_text(row),
                str(row["n"]),
                row["badge"],
            ]
        )
    if width < 96:
        cells = [line[:-1] for line in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rest = sum(widths[1:]) + 2 * (len(widths) - 1)
    widths[0] = min(widths[0], width - rest)
    return [text for line in cells for text in _aligned(line, widths, width)]


def _fault(row):
    marks = [key for key in ("diverged", "failed", "stale") if row[key]]
    return f" ({', '.join(marks)})" if marks else ""


def _aligned(cells, widths, width):
    """Return a row's lines; a name that does not fit has its own above."""
    name, *numbers = cells
    above = []
    if len(name) > widths[0]:
        above, name = _wrap(name, width), ""
    parts = [name.ljust(widths[0])]
    for place, text in enumerate(numbers, start=1):
        verdict = place == 5
        adjust = text.ljust if verdict else text.rjust
        parts.append(adjust(widths[place]))
    return [*above, "  ".join(parts).rstrip()]


# --- Files -----------------------------------------------------------------


def write(
    experiment_folder, records, figures=None, baseline="scratch", mix=False
):
    """Write summary.md, summary.csv and one PNG a figure; return their paths.

    Args:
        experiment_folder: made when absent.
        records: what `table` takes.
        figures: dict from a name of letters, digits, `-` and `_` to a
            matplotlib `Figure`; summary.md shows them in this order.

    Raises:
        KTransferError: `E_ARGUMENT` for a figure's name, and what `table` and
            `files.write` raise.
    """
    folder = Path(experiment_folder)
    figures = figures or {}
    for name in figures:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise KTransferError(
                "E_ARGUMENT",
                f"figure name {name!r}; expected letters, digits, - and _.",
            )
    rows = table(records, baseline, mix)
    images = [f"![{name}]({name}.png)" for name in figures]
    summary = "\n".join([to_markdown(rows), *images]).rstrip("\n") + "\n"
    paths = {
        folder / "summary.md": summary.encode(),
        folder / "summary.csv": to_csv(rows).encode(),
    }
    for path, content in paths.items():
        files.write(path, content)
    for name, figure in figures.items():
        plots.save(figure, folder / f"{name}.png")
    return [*paths, *(folder / f"{name}.png" for name in figures)]
