"""Which records a figure takes, and what it must say of them."""

import textwrap
from collections.abc import Iterable

from ktransfer.analysis import arms, words
from ktransfer.analysis.record import Record
from ktransfer.analysis.remarks import cautions
from ktransfer.errors import KTransferError

LONGEST_LABEL = 38
# How a figure marks the runs that a caution is about.
_MARKS = {"diverged": "× ", "stale": "† "}


def one_target(records: Iterable[Record], mix: bool) -> list[Record]:
    """Return the records in order, or refuse them."""
    records = arms.ordered(records)
    arms.require_comparable(records, mix)
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
    return records


def remarks(records: Iterable[Record], planned: int | None = None) -> list[str]:
    """Return the sentences that a figure of `records` must carry.

    Args:
        records: those shown.
        planned: number of runs planned; without it the recorded ones count.
    """
    return [
        _MARKS.get(caution.kind, "") + caution.text
        for caution in cautions(records, planned)
    ]


def name(arm: arms.Arm, records: Iterable[Record]) -> str:
    """Return an arm's label on as many lines as it needs, stale ones marked."""
    stale = any(record["stale"] for record in records)
    text = words.plain(f"{arm.label} †" if stale else arm.label)
    return "\n".join(textwrap.wrap(text, LONGEST_LABEL))
