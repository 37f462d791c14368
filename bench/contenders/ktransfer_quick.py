"""Ours alone: `make quick`, every method at three seeds, from a cold start."""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    count = re.search(r"(\d+) of \1 runs carried out", done.stderr)
    # In KiB; of the largest process that has ended.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    found = {"seconds": [seconds], "runs": int(count[1]), "peak": peak}
    print(json.dumps(found))


main()
