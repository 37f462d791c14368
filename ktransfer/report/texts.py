"""Rows as text: Markdown, CSV and the terminal.

Texts show percentages and percentage points with one decimal.
"""

import csv
import io
import math
import re
import textwrap
from collections.abc import Collection

from ktransfer.analysis import arms, words
from ktransfer.analysis.record import Record
from ktransfer.report import sentences
from ktransfer.report.rows import COLUMNS, Table

# Classes, and pairs of them, that are named one by one.
_MOST_CLASSES, _MOST_PAIRS = 20, 3


def _accuracy_text(row):
    return words.percent(
        (row["accuracy"], row["accuracy_low"], row["accuracy_high"]), ".1f"
    )


def _elsewhere_text(row):
    return words.percent(
        (row["also_accuracy"], row["also_low"], row["also_high"]), ".1f"
    )


def _gain_text(row):
    if row["is_baseline"]:
        return "baseline"
    return words.percent(
        (row["gain"], row["gain_low"], row["gain_high"]), "+.1f"
    )


def _seconds_text(row):
    seconds = row["seconds"]
    return "-" if math.isnan(seconds) else words.format_seconds(seconds)


def _trainable_text(row):
    number = row["trainable_parameters"]
    return "-" if math.isnan(number) else words.format_count(number)


def to_markdown(table: Table) -> str:
    """Return the table as Markdown: cautions, a table a budget, notes.

    Controls that are missing are named in the first line.
    """
    blocks, rows = [], table.rows
    if missing := sentences.missing_controls(rows):
        blocks.append(f"controls missing: {markdown(', '.join(missing))}")
    blocks.append(markdown("; ".join(sentences.headline(table)) + "."))
    for title, members in sentences.groups(rows):
        blocks.append(f"### {markdown(title)}")
        blocks.append(_markdown_table(members))
    excluded = [
        f"- {code(arm)}: {markdown(reason)}"
        for arm, reason in sentences.inapplicable(rows).items()
    ]
    if excluded:
        blocks += ["### Not applicable here", "\n".join(excluded)]
    if lines := sentences.notes(rows):
        blocks.append("\n".join(f"- {markdown(line)}" for line in lines))
    return "\n\n".join(blocks) + "\n"


def _markdown_table(rows):
    columns = {
        "method": lambda row: code(row["arm"]) + (" †" * bool(row["stale"])),
        "accuracy, %": _accuracy_text,
    }
    if other := rows[0]["also_target"]:
        columns[f"on {markdown(other)}, %"] = _elsewhere_text
    columns |= {
        f"gain over {markdown(rows[0]['baseline'])}, pp": _gain_text,
        "verdict": lambda row: row["badge"],
        "n": lambda row: str(row["n"]),
        "seconds": _seconds_text,
        "trainable": _trainable_text,
    }
    sides = ["---" if c in ("method", "verdict") else "---:" for c in columns]
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join(sides)} |"]
    for row in rows:
        cells = [text(row) for text in columns.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def markdown(text):
    """Return `text` on one line, its Markdown and HTML marks made plain."""
    text = words.plain(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*~|$\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def code(text):
    """Return `text` as a code span that a table's cell can hold."""
    text = words.plain(text).replace("|", "\\|")
    ticks = [len(run) for run in re.findall("`+", text)]
    fence = "`" * (max(ticks, default=0) + 1)
    edge = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{edge}{text}{edge}{fence}"


def to_csv(table: Table) -> str:
    """Return the rows as CSV by RFC 4180: CRLF, quotes where needed.

    Numbers are fractions with six significant digits; what has no value is
    empty. A text that a spreadsheet would take for a formula starts with '.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in table.rows:
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


def to_terminal(
    table: Table, width: int = 80, methods: Collection[str] | None = None
) -> str:
    """Return the table as plain text no wider than `width`, at least 72.

    Controls carry a star; verdicts are shown from 96 columns on. With
    `methods` the tables show these alone and say how many others there are;
    every sentence is still about all rows.
    """
    width = max(width, 72)
    lines, rows = [], table.rows
    if missing := sentences.missing_controls(rows):
        lines += _wrap(f"controls missing: {', '.join(missing)}", width)
    for sentence in sentences.headline(table):
        lines += _wrap(sentence, width)
    for title, members in sentences.groups(rows):
        shown = [r for r in members if not methods or r["method"] in methods]
        lines += ["", *_wrap(title, width)]
        lines += _terminal_table(shown, width)
        if others := len(members) - len(shown):
            lines += [f"... and {others} more"]
    excluded = sentences.inapplicable(rows)
    if excluded and methods:
        names = ", ".join(excluded)
        lines += ["", *_wrap(f"not applicable here: {names}", width)]
    elif excluded:
        lines += ["", "not applicable here"]
        for arm, reason in excluded.items():
            lines += _wrap(f"{arm}: {reason}", width, "  ")
    lines += ["", *_wrap("* control", width)]
    for note in sentences.notes(rows):
        lines += _wrap(note, width)
    return "\n".join(lines) + "\n"


def _wrap(text, width, indent=""):
    return textwrap.wrap(
        words.plain(text),
        width,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
    )


def _terminal_table(rows, width):
    title = f"gain over {words.plain(rows[0]['baseline'])}, pp"
    cells = [["method", "accuracy, %", title[:22], "seconds", "n", "verdict"]]
    for row in rows:
        star = " *" if row["method"] in arms.CONTROLS else ""
        cells.append(
            [
                words.plain(row["arm"]) + star + _fault(row),
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


def by_class(record: Record, width: int = 80) -> list[str]:
    """Return lines for the terminal on the classes of one run.

    The balanced accuracy, the accuracy of each class (where there are many,
    of the lowest), and which class was most often taken for which. Empty for
    a run without them.
    """
    if "balanced_accuracy" not in record:
        return []
    names = record.get("labels") or [*map(str, range(record["num_classes"]))]
    balanced = words.percent((record["balanced_accuracy"], math.nan, 0), ".1f")
    lines = [
        f"balanced accuracy {balanced} %",
        _class_line(names, record["per_class_accuracy"]),
    ]
    if pairs := _confused(names, record.get("confusion", [])):
        lines.append(f"most often taken for another: {'; '.join(pairs)}")
    return [part for line in lines for part in _wrap(line, width)]


def _class_line(names, accuracies):
    known = [(a, name) for a, name in zip(accuracies, names) if a is not None]
    start = "accuracy by class, %"
    if len(known) > _MOST_CLASSES:
        known = sorted(known)[:_MOST_CLASSES]
        start = f"the {_MOST_CLASSES} classes of lowest accuracy, %"
    texts = [f"{name} {100 * accuracy:.1f}" for accuracy, name in known]
    if absent := [name for a, name in zip(accuracies, names) if a is None]:
        texts.append(f"no test image of {', '.join(absent[:_MOST_CLASSES])}")
    return f"{start}: {', '.join(texts)}"


def _confused(names, confusion):
    """Return `cat as dog 12 of 50` for the most frequent mistakes."""
    found = [
        (-number, true, taken)
        for true, row in enumerate(confusion)
        for taken, number in enumerate(row)
        if number and true != taken
    ]
    return [
        f"{names[true]} as {names[taken]} {-number} of {sum(confusion[true])}"
        for number, true, taken in sorted(found)[:_MOST_PAIRS]
    ]
