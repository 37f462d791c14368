"""Figures from records alone: labels, gains, and two measurements.

A figure is a pure function of its records, so that two builds give equal
bytes. matplotlib is imported when the first figure is drawn.

- `labels`: `accuracy_against_labels` and `accuracy_against` another setting,
  one line an arm.
- `forest`: `forest`, the paired gain of every arm, one row an arm.
- `intervals`: `intervals`, values with their intervals, one row each.
- `plane`: `plane`, two measurements against each other.
- `captions`: which records a figure takes, and what it says of them:
  `remarks`.
- `looks`: colour and marker of every method.
- `style`: the page, marks, and `save`.
"""

from ktransfer.analysis.words import format_count, format_seconds
from ktransfer.plots.captions import remarks
from ktransfer.plots.forest import forest
from ktransfer.plots.intervals import Row, intervals
from ktransfer.plots.labels import accuracy_against, accuracy_against_labels
from ktransfer.plots.looks import Look, looks
from ktransfer.plots.plane import Cloud, plane
from ktransfer.plots.style import FAMILIES, save

__all__ = [
    "FAMILIES",
    "Cloud",
    "Look",
    "Row",
    "accuracy_against",
    "accuracy_against_labels",
    "forest",
    "format_count",
    "format_seconds",
    "intervals",
    "looks",
    "plane",
    "remarks",
    "save",
]
