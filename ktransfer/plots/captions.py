"""Which records a figure takes, and what it must say of them."""

import textwrap
from collections.abc import Iterable

from ktransfer.analysis import arms, words
from ktransfer.analysis.record import Record
from ktransfer.errors import KTransferError

LONGEST_LABEL = 38


def one_target(records, mix):
    """Return the records in order, or refuse them."""
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
    return arms.ordered(records)


def describe(records):
    """Return what was compared: source, target, seeds and source seeds."""
    measured = arms.measured(records)
    data = words.data(
        {"+".join(r["source_origins"]) for r in measured},
        {r["target_origin"] for r in measured},
    )
    cells = arms.cells(measured).values()
    counts = {len({r["seed"] for r in cell}) for cell in cells}
    crossed = any(len({r["seed"] for r in cell}) < len(cell) for cell in cells)
    number = len(_source_seeds(measured))
    return f"{data}; {words.seeds(counts, number, '×', crossed)}"


def remarks(records, planned=None):
    """Return the sentences that a figure of `records` must carry.

    Args:
        records: those shown.
        planned: number of runs planned; without it the recorded ones count.
    """
    status = [record["status"] for record in records]
    if planned is None:
        planned = len(status) - status.count("not_applicable")
    measured = arms.measured(records)
    num_diverged = sum(map(arms.diverged, records))
    num_stale = sum(record["stale"] for record in measured)
    num_environments = len({record["numerics"] for record in measured})
    notes = []
    if len(measured) < planned:
        failed = status.count("failed")
        detail = f" ({failed:,} failed)" if failed else ""
        notes.append(f"{len(measured):,} of {planned:,} runs{detail}")
    if num_diverged:
        runs = words.count(num_diverged, "run")
        notes.append(f"{runs} diverged (×), counted as accuracy 0")
    if num_stale:
        runs = words.count(num_stale, "stale run")
        notes.append(f"† {runs}, of older code or data")
    if num_environments > 1:
        notes.append(f"{num_environments} numeric environments mixed")
    if len(_source_seeds(measured)) == 1:
        notes.append("conditional on one source network")
    return notes


def _source_seeds(records):
    return {record["source_seed"] for record in records} - {None}


def name(arm: arms.Arm, records: Iterable[Record]) -> str:
    """Return an arm's label on as many lines as it needs, stale ones marked."""
    stale = any(record["stale"] for record in records)
    text = words.plain(f"{arm.label} †" if stale else arm.label)
    return "\n".join(textwrap.wrap(text, LONGEST_LABEL))
