"""cifar10-mnist: a network of colour photographs, a few labelled digits.

Question: which way of transferring it pays, and how few labels does that take?
Paper: the article whose pipeline this is (article 002): train on CIFAR-10,
reuse the convolutional features for MNIST. No accuracy of frozen CIFAR-10
features on MNIST is published, so only the differences to the controls mean
anything.

Protocol: the article's network, 10 epochs of CIFAR-10 (7,820 steps of 64, Adam
1e-3), two source seeds. MNIST at 10, 100 and all labels per class, six target
seeds, crossed with both source seeds where there is a source; 600 steps, at
all labels 2,800, the same for every method.

    make cifar10-mnist
"""

from ktransfer import methods, plots
from ktransfer.runs import Run

STEPS = {10: 600, 100: 600, None: 2800}
SEEDS = range(6)
SOURCE_SEEDS = (0, 1)
SOURCE_STEPS = 7820
METHODS = (
    "majority",
    "logistic_regression",
    "random_features",
    "feature_extraction",
    "scratch",
    "fine_tuning",
)


def runs():
    """Return the planned runs."""
    return [
        _run(method, labels, seed, source_seed)
        for labels in STEPS
        for method in METHODS
        for seed in SEEDS
        for source_seed in _source_seeds(method)
    ]


def _source_seeds(method):
    return SOURCE_SEEDS if methods.describe(method).max_sources else (None,)


def _run(method, labels, seed, source_seed):
    sources = methods.sources_for(method, "cifar10", "letters")
    return Run(
        experiment="cifar10_mnist",
        method=method,
        target="mnist",
        steps=STEPS[labels],
        seed=seed,
        labels_per_class=labels,
        sources=sources,
        source_seed=source_seed,
        source_steps=SOURCE_STEPS if sources else None,
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
        ),
        "gain": plots.forest(
            records,
            mix=mix,
            title=f"{source} to {target}: gain over training from scratch",
            subtitle="10 labels per class, 600 steps",
            labels_per_class=10,
        ),
    }
