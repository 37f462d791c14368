"""Records: the files under `results/`, read, written and compared.

`results/<experiment>/records/<sources>-<target>/<method>.jsonl` holds one
canonical JSON line a run, a `Record`. No Keras import.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from ktransfer import data, files
from ktransfer.analysis.record import Record
from ktransfer.errors import KTransferError
from ktransfer.runs.run import (
    Run,
    as_fields,
    canonical,
    code,
    fingerprint,
    from_fields,
)

SCHEMA = 1
_LARGEST_FILE = 64 * 2**20
# What names a file, and so an experiment.
NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")


def record_path(results: str | Path, run: Run) -> Path:
    """Return the file that holds the record of `run`."""
    for name in (run.experiment, run.method, run.target, *run.sources):
        if not NAME.fullmatch(name):
            raise KTransferError(
                "E_ARGUMENT",
                f"{name!r} cannot name a file; expected lower-case letters, "
                "digits and underscores, at most 64.",
            )
    pair = f"{'+'.join(run.sources) or 'none'}-{run.target}"
    folder = Path(results) / run.experiment / "records" / pair
    return folder / f"{run.method}.jsonl"


def read(path: str | Path) -> list[Record]:
    """Return the records of one file, checked line by line.

    Raises:
        KTransferError: `E_RECORD` for a line that was edited, copied to
            another place, doubled or written by a newer version.
    """
    path = Path(path)
    if not path.exists():
        return []
    if path.stat().st_size > _LARGEST_FILE:
        raise _damaged(path, 0, "the file is larger than 64 MiB")
    records: list[Record] = []
    seen: set[Run] = set()
    # A text may hold what other kinds of lines end with.
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, start=1):
        record = _parse(path, number, line)
        run = from_fields(record)
        if run in seen or record_path(path.parents[3], run) != path:
            raise _damaged(path, number, "it is doubled or in the wrong place")
        seen.add(run)
        records.append(record)
    return records


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise _damaged(path, number, "it is not JSON") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise _damaged(path, number, f"its schema is not {SCHEMA}")
    content = {key: value for key, value in record.items() if key != "sha256"}
    if files.sha256(canonical(content).encode()) != record.get("sha256"):
        raise _damaged(path, number, "its content does not match its sha256")
    return cast(Record, record)


def _damaged(path: Path, number: int, why: str) -> KTransferError:
    return KTransferError(
        "E_RECORD",
        f"{path} line {number}: {why}; expected a record as written. Remove "
        "the line and its run is done again.",
    )


def write(results: str | Path, record: Record) -> None:
    """Add `record`, or put it in place of its run's older one."""
    run = from_fields(record)
    path = record_path(results, run)
    record = _sealed(record)
    with files.lock(_lock_path(results, run.experiment, path.name)):
        files.remove_leftovers(path.parent)
        kept = [old for old in read(path) if from_fields(old) != run]
        ordered = sorted([*kept, record], key=_order)
        text = "".join(f"{canonical(one)}\n" for one in ordered)
        files.write(path, text.encode())


def _sealed(record: Record) -> Record:
    """Return `record` as a file holds it, with its schema and its hash."""
    added = ("schema", "sha256", "stale")
    kept = {key: value for key, value in record.items() if key not in added}
    kept["schema"] = SCHEMA
    digest = files.sha256(canonical(kept).encode())
    return cast(Record, {**kept, "sha256": digest})


def _order(record: Record) -> tuple:
    labels = record["labels_per_class"]
    return (
        canonical(record["hyperparameters"]),
        float("inf") if labels is None else labels,
        record["seed"],
        canonical(record),
    )


def _lock_path(results, experiment, name):
    return Path(results) / ".locks" / experiment / name


def run_lock(results, run):
    """Return the lock that whoever carries out `run` holds."""
    key = files.sha256(canonical(as_fields(run)).encode())[:16]
    return files.lock(_lock_path(results, run.experiment, key))


def find(results: str | Path, run: Run) -> Record | None:
    """Return the record of `run`, or None."""
    for record in read(record_path(results, run)):
        if from_fields(record) == run:
            return record
    return None


def is_fresh(record: Record | None, run: Run, choice: str = "") -> bool:
    """Tell whether `record` stands for `run` as the code and data are now.

    Args:
        record: of the run, or None.
        run: the `Run`.
        choice: sha256 of the choice that the run rests on, "" if on none.
    """
    return (
        record is not None
        and record["status"] != "failed"
        and record.get("choice", "") == choice
        and record["fingerprint"] == fingerprint(run)
    )


def collect(
    results: str | Path, wanted: Iterable[Run], choice: str = ""
) -> list[Record]:
    """Return the records of the runs `wanted`, each with its key `stale`.

    Tables and figures need no data: where they are not on this machine, a
    record is compared by its code and by the `choice` it rests on alone.
    """
    by_file: dict[Path, list[Run]] = {}
    for run in wanted:
        by_file.setdefault(record_path(results, run), []).append(run)
    found: list[Record] = []
    for path, planned in by_file.items():
        records = {from_fields(record): record for record in read(path)}
        for run in planned:
            if run in records:
                stale = _is_stale(records[run], run, choice)
                found.append({**records[run], "stale": stale})
    return found


def _is_stale(record: Record, run: Run, choice: str) -> bool:
    if record.get("code") != code(run) or record.get("choice", "") != choice:
        return True
    try:
        with data.without_network():
            return record["fingerprint"] != fingerprint(run)
    except KTransferError as error:
        if error.name in ("E_OFFLINE", "E_MISSING_PACKAGE"):
            return False
        raise


def check_results_folder(folder, option="--results"):
    """Refuse, before anything is trained, a folder that cannot be written.

    `option` is the one that names it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KTransferError(
            "E_RESULTS_DIR",
            f"folder {folder} cannot be made ({error.strerror}); name "
            f"another with {option}.",
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise KTransferError(
            "E_RESULTS_DIR",
            f"folder {folder} is not writable; name another with "
            f"{option} or change its permissions.",
        )
