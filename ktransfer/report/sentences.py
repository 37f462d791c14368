"""Rows as sentences: what stands above and below a table."""

import math
from statistics import median

from ktransfer.analysis import arms, intervals, words
from ktransfer.report.rows import Row, Table

_CLAIMS = ("better", "worse", "negative transfer", "undecided")


def missing_controls(rows: list[Row]) -> list[str]:
    """Return the controls without a measured run, as short texts.

    A control that is there at some label budgets only is named with the
    budgets that lack it.
    """
    places = dict.fromkeys(map(_place, rows))
    found = {(*_place(row), row["method"]) for row in rows if row["n"]}
    missing = []
    for control in arms.CONTROLS:
        lacking = [place for place in places if (*place, control) not in found]
        if len(lacking) == len(places):
            missing.append(control)
        elif lacking:
            where = ", ".join(_place_text(rows, place) for place in lacking)
            missing.append(f"{control} ({where})")
    return missing


def _place(row):
    return row["target"], row["labels_per_class"]


def _place_text(rows, place):
    """Return the label budget, and the target where `rows` have several."""
    target, labels_per_class = place
    text = words.labels(labels_per_class)
    several = len({row["target"] for row in rows}) > 1
    return f"{target}, {text}" if several else text


def headline(table: Table) -> list[str]:
    """Return the sentences above a table: data, runs, seeds, cautions."""
    most = max((row["n"] for row in table.rows), default=0)
    statuses = ("ok", "diverged", "failed")
    number = sum(row[status] for row in table.rows for status in statuses)
    sentences = [
        table.data,
        f"{words.count(number, 'run')}; {table.seeds}; "
        "95 % t-intervals over seeds, gains paired by seed",
    ]
    if not intervals.verdict_allowed(most):
        seeds = words.count(most, "seed")
        sentences.append(f"smoke run: {seeds}, no verdict")
    return sentences + table.cautions


def notes(rows: list[Row]) -> list[str]:
    """Return the sentences below a table: badges, power, faulty runs."""
    compared = [r for r in rows if r["badge"] in _CLAIMS]
    lines = [_meaning(compared)] if compared else []
    for row in rows:
        runs = row["ok"] + row["diverged"] + row["failed"]
        where = f"{row['arm']}, {_place_text(rows, _place(row))}"
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


def _meaning(compared):
    """Return what the badges of the `compared` rows claim."""
    smallest = 100 * median(row["detectable"] for row in compared)
    return (
        "better, worse and negative transfer (worse than scratch in spite "
        "of a source): the 95 % interval of the gain excludes 0 and "
        f"Holm's correction over {words.count(len(compared), 'comparison')} "
        "holds; the smallest gain that these seeds find with 80 % power is "
        f"{smallest:.1f} pp (median)"
    )


def groups(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """Return pairs (title, rows): the measured rows of one budget each."""
    places: dict[tuple, list[Row]] = {}
    for row in rows:
        if row["badge"] != "not applicable":
            places.setdefault(_place(row), []).append(row)
    return [
        (_title(place, members), members) for place, members in places.items()
    ]


def _title(place, rows):
    target, labels_per_class = place
    title = f"{target}, {words.labels(labels_per_class)}"
    if labels_per_class is None:
        title += f" ({_sizes(rows)} per class)"
    return title


def _sizes(rows):
    """Return how many labels a class has, `5 to 47` where not all have one."""
    known = [row for row in rows if not math.isnan(row["fewest_labels"])]
    least = min((row["fewest_labels"] for row in known), default=0)
    most = max((row["most_labels"] for row in known), default=0)
    if least < most:
        return f"{least:,} to {most:,}"
    return f"{sum(row['labels'] for row in rows) / len(rows):,.0f}"


def inapplicable(rows: list[Row]) -> dict[str, str]:
    """Return a dict arm -> reason, each arm once."""
    return {
        row["arm"]: row["reason"] or "no reason given"
        for row in rows
        if row["badge"] == "not applicable"
    }
