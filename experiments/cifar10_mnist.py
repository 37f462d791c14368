"""cifar10-mnist: a network of colour photographs, a few labelled digits.

Question: which way of transferring it pays, and how few labels does that take?
Paper: the article whose pipeline this is (article 002): train on CIFAR-10,
reuse the convolutional features for MNIST. No accuracy of frozen CIFAR-10
features on MNIST is published, so only the differences to the controls mean
anything.

Protocol: the article's network, 10 epochs of CIFAR-10 (7,820 steps of 64, Adam
1e-3), two source seeds. MNIST at 10, 100 and all labels per class, six target
seeds; 600 steps, at all labels 2,800, the same for every method. Methods of
several sources get the embedded letters as the second. Feature extraction and
fine-tuning are crossed with both source seeds; every other method takes source
seed 0 on even and 1 on odd seeds.

At 10 labels per class every method runs but structure transfer, which from this
source is training from scratch, bit for bit; at 100 and all labels those of
`EVERYWHERE`, at least one a family that applies, the cheap ones first. Where
labels are few, training from scratch is also given `LONGER` times the steps, so
that no gain is only a head start.

    make cifar10-mnist
"""

from ktransfer import methods, plots
from ktransfer.runs.planning import Experiment, longer, run_of

STEPS = {10: 600, 100: 600, None: 2800}
SEEDS = range(6)
SOURCE_SEEDS = (0, 1)
SOURCE_STEPS = 7820
LONGER = 4
CROSSED = ("feature_extraction", "fine_tuning")
EVERYWHERE = (
    "majority",
    "logistic_regression",
    "random_features",
    "scratch",
    "feature_extraction",
    "fine_tuning",
    "gradual_unfreezing",
    "deep_transfer_network",
    "concatenation",
    "distillation",
    "hard_sharing",
)


def runs():
    """Return the planned runs."""
    planned = [
        _run(method, labels, seed, source_seed)
        for labels in STEPS
        for method in (_methods() if labels == 10 else EVERYWHERE)
        for seed in SEEDS
        for source_seed in _source_seeds(method, seed)
    ]
    scratch = [
        run
        for run in planned
        if run.method == "scratch" and run.labels_per_class is not None
    ]
    return planned + longer(scratch, LONGER)


def _methods():
    return [name for name in methods.names() if name != "structure_transfer"]


def _source_seeds(method, seed):
    if method in CROSSED:
        return SOURCE_SEEDS
    return (SOURCE_SEEDS[seed % len(SOURCE_SEEDS)],)


def _run(method, labels, seed, source_seed):
    return run_of(
        method,
        seed,
        source="cifar10",
        second="letters",
        source_seed=source_seed,
        source_steps=SOURCE_STEPS,
        target="mnist",
        steps=STEPS[labels],
        labels_per_class=labels,
    )


def figures(records, mix=False):
    """Return the figures of `records`, name -> figure."""
    target = records[0]["target_origin"]
    source = next(x["source_origins"][0] for x in records if x["sources"])
    return {
        "accuracy": plots.accuracy_against_labels(
            records,
            mix=mix,
            title=f"{source} to {target}: accuracy against labels",
            highlight=EVERYWHERE,
        ),
        "gain": plots.forest(
            records,
            mix=mix,
            title=f"{source} to {target}: gain over training from scratch",
            subtitle="10 labels per class, 600 steps",
            labels_per_class=10,
        ),
    }


EXPERIMENT = Experiment(
    name="cifar10_mnist", runs=runs, figures=figures, headline=EVERYWHERE
)
