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
- `style`: colours, markers, the page, and `save`.
- `words`: numbers and names as text, for tables too.
"""

from ktransfer.analysis.words import format_count, format_seconds
from ktransfer.plots.captions import remarks
from ktransfer.plots.forest import forest
from ktransfer.plots.intervals import Row, intervals
from ktransfer.plots.labels import accuracy_against, accuracy_against_labels
from ktransfer.plots.plane import Cloud, plane
from ktransfer.plots.style import FAMILIES, colour, markers, save

__all__ = [
    "FAMILIES",
    "Cloud",
    "Row",
    "accuracy_against",
    "accuracy_against_labels",
    "colour",
    "forest",
    "format_count",
    "format_seconds",
    "intervals",
    "markers",
    "plane",
    "remarks",
    "save",
]
