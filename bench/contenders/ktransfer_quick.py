"""Ours alone: `make quick`, every method once, from a cold start."""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ended

COMMAND = Path(sys.executable).with_name("ktransfer")


def main():
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run(
            [COMMAND, "run", "quick", "--jobs", sys.argv[2]]
            + ["--results", folder],
            env={**os.environ, "XDG_CACHE_HOME": folder},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - start
        spent = _spent(Path(folder) / "quick" / "records")
    count = re.search(r"(\d+) of \1 runs carried out", done.stderr)
    total, peak = ended()
    spent["others"] = total - sum(spent.values())
    found = {
        "seconds": [seconds],
        "runs": int(count[1]),
        "peak": peak,
        "spent": spent,
    }
    print(json.dumps(found))


def _spent(records):
    """Return processor seconds of runs, and of what only a first one has.

    The first run of a method traces and compiles what its later ones share.
    One that is not applicable has taken none.
    """
    first = again = 0.0
    for path in records.glob("*/*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines()
        one, *others = [json.loads(line)["seconds"] or 0.0 for line in lines]
        usual = statistics.mean(others)
        first += one - usual
        again += usual * len(lines)
    return {"first": first, "again": again}


main()
