"""quick: does it run here, and what does a report look like?

Paper: none. The embedded pair, coloured letters -> grey digits, offline: every
method, 60 steps of 32 images, three seeds, sources trained for 400 steps. A
smoke run: no verdict.

    make quick
"""

from ktransfer import methods, plots
from ktransfer.runs import Run

STEPS = 60
BATCH_SIZE = 32
SEEDS = range(3)
LABELS_PER_CLASS = 10
SOURCE_STEPS = 400


def runs():
    """Return the planned runs."""
    return [_run(method, seed) for method in methods.names() for seed in SEEDS]


def _run(method, seed):
    sources = methods.sources_for(method, "letters", "letters_5to9")
    known = methods.describe(method).hyperparameters
    batch = {"batch_size": BATCH_SIZE} if "batch_size" in known else {}
    return Run(
        experiment="quick",
        method=method,
        target="digits",
        steps=STEPS,
        seed=seed,
        labels_per_class=LABELS_PER_CLASS,
        sources=sources,
        source_seed=0 if sources else None,
        source_steps=SOURCE_STEPS if sources else None,
        hyperparameters=tuple(batch.items()),
    )


def figures(records, mix=False):
    """Return the figures of `records`, name -> figure."""
    return {
        "gain": plots.forest(
            records,
            mix=mix,
            title="Letters to digits: gain over training from scratch",
            subtitle=f"smoke run, {STEPS} steps, {len(SEEDS)} seeds, "
            f"{LABELS_PER_CLASS} labels per class: no verdict",
            labels_per_class=LABELS_PER_CLASS,
        )
    }
