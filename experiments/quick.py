"""quick: does it run here, and what does a report look like?

Paper: none. The embedded pair, coloured letters -> grey digits, offline: every
method, 60 steps of 16 images, three seeds, sources trained for 250 steps, and
what a method estimates from the source's images, from 32 of them. Of 70 methods
that is about a quarter of a million images through a network and back.
Structure transfer takes that of another network: from the one of training from
scratch it is that, bit for bit. A smoke run: no verdict.

    make quick
"""

from ktransfer import methods, plots
from ktransfer.runs import Run

STEPS = 60
# Settings of the methods that have them.
SMALL = {"batch_size": 16, "num_images": 32}
SEEDS = range(3)
LABELS_PER_CLASS = 10
SOURCE_STEPS = 250


def runs():
    """Return the planned runs."""
    return [_run(method, seed) for method in methods.names() for seed in SEEDS]


def _run(method, seed):
    structure = method == "structure_transfer"
    sources = methods.sources_for(method, "letters", "letters_5to9")
    known = methods.describe(method).hyperparameters
    small = {name: SMALL[name] for name in SMALL if name in known}
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
        backbone="lenet" if structure else "convnet",
        hyperparameters=tuple(small.items()),
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
