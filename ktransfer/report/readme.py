"""Markdown for docs: the table of methods, and an experiment's results."""

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from ktransfer import files, methods
from ktransfer.analysis.arms import Selector
from ktransfer.analysis.record import Record
from ktransfer.errors import KTransferError
from ktransfer.report.rows import table
from ktransfer.report.texts import to_terminal


def method_table() -> str:
    """Return the table of methods."""
    lines = ["| family | method | in a sentence | articles | paper |"]
    lines.append("|---|---|---|---|---|")
    for name, family in methods.names().items():
        about = methods.describe(name)
        sentence = about.summary.partition(": ")[2] or about.summary
        citation, _, link = about.citation.rpartition(" ")
        paper = f"[{citation.rstrip('.')}]({link})"
        rows = ", ".join(articles(about)) or "-"
        lines.append(f"| {family} | `{name}` | {sentence} | {rows} | {paper} |")
    return "\n".join(lines)


def articles(about: methods.Description) -> list[str]:
    """Return the rows of the articles that a method covers, `M6`."""
    return re.findall(r"\bM\d+\b", about.row)


def result_block(
    name: str,
    records: Iterable[Record],
    results: str | Path = "results",
    shown: Collection[str] | None = None,
    baseline: Selector = "scratch",
    into: str | Path = "README.md",
) -> str:
    """Return the table and the figures of an experiment.

    Args:
        name: of its folder in `results`.
        records: of all its runs.
        shown: methods that the table shows, None for all.
        baseline: as in `table`.
        into: the file that shows them, to which links are relative.
    """
    text = to_terminal(table(records, baseline), width=90, methods=shown)
    folder = Path(results) / name
    figures = sorted(path.name for path in folder.glob("*.png"))
    place = Path(os.path.relpath(folder, Path(into).parent)).as_posix()
    images = [f"![{f[:-4]}]({place}/{f})" for f in figures]
    return "\n\n".join([f"```\n{text.strip()}\n```", *images])


def fill(path: str | Path, mark: str, text: str) -> None:
    """Put `text` between `<!-- mark -->` and `<!-- /mark -->` of a file.

    Raises:
        KTransferError: `E_ARGUMENT` for a file that is absent, is no text or
            lacks the marks.
    """
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise KTransferError(
            "E_ARGUMENT",
            f"{path} cannot be read as a text ({error}); expected a Markdown "
            "file.",
        ) from error
    before, start, rest = content.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not start or not end:
        raise KTransferError(
            "E_ARGUMENT",
            f"{path} lacks the marks <!-- {mark} --> and <!-- /{mark} -->.",
        )
    files.write(Path(path), f"{before}{start}{text}\n{end}{after}".encode())
