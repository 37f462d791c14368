"""quick: does it run here, and what does a report look like?

Paper: none. The embedded pair, coloured letters -> grey digits, offline: every
method once, 200 steps of 16 images, sources trained for 250 steps, and what a
method estimates from the source's images, from 32 of them. The rate is three
times the usual one, so that a method of several stages has time for each:
nothing ends at chance for want of steps. Structure transfer takes that of
another network: from the one of training from scratch it is that, bit for bit.
A smoke run of one seed: no verdict.

    make quick
"""

from ktransfer import methods, plots
from ktransfer.runs.planning import Experiment, run_of

STEPS = 200
# Settings of the methods that have them.
SMALL = {"batch_size": 16, "learning_rate": 3e-3, "num_images": 32}
LABELS_PER_CLASS = 10
SOURCE_STEPS = 250


def runs():
    """Return the planned runs."""
    return [_run(method) for method in methods.names()]


def _run(method):
    known = methods.describe(method).hyperparameters
    return run_of(
        method,
        seed=0,
        source="letters",
        second="letters_5to9",
        source_seed=0,
        source_steps=SOURCE_STEPS,
        target="digits",
        steps=STEPS,
        labels_per_class=LABELS_PER_CLASS,
        backbone="lenet" if method == "structure_transfer" else "convnet",
        hyperparameters={n: SMALL[n] for n in SMALL if n in known},
    )


def figures(records, mix=False):
    """Return the figures of `records`, name -> figure."""
    return {
        "gain": plots.forest(
            records,
            mix=mix,
            title="Letters to digits: gain over training from scratch",
            subtitle=f"smoke run, {STEPS} steps, one seed, "
            f"{LABELS_PER_CLASS} labels per class: no verdict",
            labels_per_class=LABELS_PER_CLASS,
        )
    }


EXPERIMENT = Experiment(name="quick", runs=runs, figures=figures)
