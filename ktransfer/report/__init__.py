"""Tables from records alone: Markdown, CSV and the terminal.

- `rows`: records -> rows with accuracy, gain, counts and badge.
- `sentences`: rows -> what stands above and below a table.
- `texts`: rows -> Markdown, CSV and the terminal.
- `readme`: what `docs/` shows of methods and of an experiment.
- `kept`, `card`: a model that is kept, and what is said of it.
- `recommendation`: which way of transferring suits one's images.
- `inspected`: what a model is, and how long each method takes with it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ktransfer import files, plots
from ktransfer.analysis.record import Record
from ktransfer.errors import KTransferError
from ktransfer.report.rows import COLUMNS, Table, table
from ktransfer.report.sentences import missing_controls
from ktransfer.report.texts import (
    by_class,
    to_csv,
    to_markdown,
    to_terminal,
)

__all__ = [
    "COLUMNS",
    "Table",
    "by_class",
    "missing_controls",
    "table",
    "to_csv",
    "to_markdown",
    "to_terminal",
    "write",
]


def write(
    experiment_folder: str | Path,
    records: Iterable[Record],
    figures: Mapping[str, Any] | None = None,
    **settings: Any,
) -> list[Path]:
    """Write summary.md, summary.csv and one PNG a figure; return their paths.

    Args:
        experiment_folder: made when absent.
        records: what `table` takes.
        figures: dict from a name of letters, digits, `-` and `_` to a
            matplotlib `Figure`; summary.md shows them in this order.
        settings: those of `table`.

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
    found = table(records, **settings)
    images = [f"![{name}]({name}.png)" for name in figures]
    summary = "\n".join([to_markdown(found), *images]).rstrip("\n") + "\n"
    paths = {
        folder / "summary.md": summary.encode(),
        folder / "summary.csv": to_csv(found).encode(),
    }
    for path, content in paths.items():
        files.write(path, content)
    for name, figure in figures.items():
        plots.save(figure, folder / f"{name}.png")
    return [*paths, *(folder / f"{name}.png" for name in figures)]
