"""Plan, carry out and keep runs. Nothing here imports Keras when it is loaded.

- `run`: what a run is, how its sources are made, and its fingerprint.
- `records`: the files that keep what came out.
- `checks`: what is refused before Keras is imported.
- `planning`: what an experiment declares, and how it builds its runs.
- `sources`: trained models to transfer from.
- `source_files`: where they lie.
- `scripts`: the scripts in `experiments/`, and what they tune.
- `carry_out`: one run.
- `sweep`: many, side by side.
- `workers`: the processes that take them.
- `progress`: what is said meanwhile.
- `refresh`: records carried over a change of code.
"""

from ktransfer.runs.records import (
    NAME,
    check_results_folder,
    collect,
    find,
    is_fresh,
    read,
    record_path,
    run_lock,
    write,
)
from ktransfer.runs.run import (
    Pretraining,
    Run,
    as_fields,
    before,
    canonical,
    code,
    fingerprint,
    from_fields,
    in_precision,
    pretrainings,
    source_fingerprint,
)

__all__ = [
    "NAME",
    "Pretraining",
    "Run",
    "as_fields",
    "before",
    "canonical",
    "check_results_folder",
    "code",
    "collect",
    "find",
    "fingerprint",
    "from_fields",
    "in_precision",
    "is_fresh",
    "pretrainings",
    "read",
    "record_path",
    "run_lock",
    "source_fingerprint",
    "write",
]
