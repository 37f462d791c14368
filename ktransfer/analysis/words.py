"""Numbers and names as text, the same in figures and in tables."""

import math
import unicodedata

# Targets that are named one by one.
MOST_NAMES = 6


def plain(text):
    """Return `text` on one line, without control or direction characters."""
    return "".join(
        "?" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c
        for c in " ".join(str(text).split())
    )


def shorten(text, length):
    """Return `text` plain, cut to `length` characters with an ellipsis."""
    text = plain(text)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def count(number, noun):
    """Return `1 seed`, `2,000 seeds`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def span(numbers, noun):
    """Return `5 to 6 seeds` for all `numbers` from 5 to 6."""
    least, most = min(numbers), max(numbers)
    text = count(most, noun)
    return text if least == most else f"{least:,} to {text}"


def data(sources, targets):
    """Return `source A, B; target C`; empty names of sources are left out.

    More targets than a reader reads are counted.
    """
    sources = sorted(set(sources) - {""})
    source = f"source {', '.join(sources)}; " if sources else ""
    targets = sorted(set(targets))
    if len(targets) > MOST_NAMES:
        return f"{source}{len(targets)} targets"
    return f"{source}target {', '.join(targets)}"


def labels(labels_per_class):
    """Return `10 labels per class`, or `all labels` for None."""
    if labels_per_class is None:
        return "all labels"
    return f"{count(labels_per_class, 'label')} per class"


def percent(fractions, form):
    """Return (mean, low, high) as `80.1 [79.0, 81.2]`, in per cent.

    An interval of nan is left out; a mean of nan is `-`.
    """
    mean, low, high = (_percent(value, form) for value in fractions)
    if math.isnan(fractions[0]):
        return "-"
    return mean if math.isnan(fractions[1]) else f"{mean} [{low}, {high}]"


def _percent(fraction, form):
    text = format(100 * fraction, form)
    return "0.0" if text in ("-0.0", "+0.0") else text


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
