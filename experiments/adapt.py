"""adapt: can unlabelled target images close the gap, and does it backfire?

Papers: Ganin and Lempitsky 2015, arXiv:1409.7495, section 4; Ganin et al. 2016,
arXiv:1505.07818; and those of the methods.

Protocol: labelled MNIST, and the images of a target without their labels:
MNIST over CIFAR-10 patches (|patch - digit|, training patches for training,
test patches for testing), and the digits of 8 x 8 pixels, 1,000 to adapt to
and 797 to test. A LeNet-like network with BatchNorm, five seeds. The share of
the gap that a method recovers is (its accuracy - source only) / (oracle -
source only). The strength of a loss is chosen among three, on a seed of its
own, by a score that reads no label of the target: how certain and varied the
answers to its images are, minus the loss on the source (`measures`). The last
step counts.

The authors train for tens of epochs; here it is 1,000 steps of 64 images a
domain, about one epoch of MNIST, for every method that trains a network, and
what it reaches is a lower bound of what it could; the classifiers on frozen
features are at their minimum. On the first target source only, and the methods
whose strength was chosen, also run for a quarter and for half of the steps,
their schedules over as many.

    make adapt          on MNIST
    make adapt QUICK=1  on the embedded digits
"""

from typing import NamedTuple

from ktransfer import methods, plots
from ktransfer.analysis import arms, outcomes
from ktransfer.runs.planning import Experiment, run_of


class Size(NamedTuple):
    source: str
    targets: tuple
    steps: int
    seeds: int
    tuning_seed: int
    strengths: tuple
    shares: tuple


NORMAL = Size(
    source="mnist_rgb",
    targets=("mnist_over_cifar10", "digits_8x8"),
    steps=1000,
    seeds=5,
    tuning_seed=100,
    strengths=(0.1, 0.3, 1.0),
    shares=(0.25, 0.5),
)
QUICK = Size(
    source="digits_rgb",
    targets=("digits_over_letters", "digits_dilated"),
    steps=60,
    seeds=3,
    tuning_seed=100,
    strengths=(0.1, 1.0),
    shares=(0.5,),
)
BASELINE = "source_only"


def trials(size):
    """Return the runs that choose a strength."""
    return [
        _run(size, method, target, size.tuning_seed, {"strength": strength})
        for target in size.targets
        for method in _with_strength()
        for strength in size.strengths
    ]


def runs(size, chosen):
    """Return the runs that report, with the strengths chosen."""
    whole = [
        _run(size, method, target, seed, chosen[target].get(method, {}))
        for target in size.targets
        for method in _family()
        for seed in range(size.seeds)
    ]
    learning = (BASELINE, *_with_strength())
    shorter = [
        run._replace(steps=int(share * run.steps))
        for run in whole
        if run.target == size.targets[0] and run.method in learning
        for share in size.shares
    ]
    return whole + shorter


def _with_strength():
    described = {name: methods.describe(name) for name in _family()}
    return [k for k, v in described.items() if "strength" in v.hyperparameters]


def _family():
    return [name for name, kind in methods.names().items() if kind == "domain"]


def _run(size, method, target, seed, hyperparameters):
    tunes = seed == size.tuning_seed
    return run_of(
        method,
        seed,
        source=size.source,
        source_seed=seed % 2,
        source_steps=size.steps,
        target=target,
        steps=size.steps,
        backbone="lenet",
        hyperparameters=hyperparameters,
        evaluation="information" if tunes else "test",
    )


def figures(records, mix=False):
    """Return the figures of `records`, name -> figure."""
    most = max(record["steps"] for record in records)
    whole = [record for record in records if record["steps"] == most]
    shorter = [record for record in records if record["steps"] < most]
    first, learning = shorter[0]["target"], {r["method"] for r in shorter}
    forests = {
        target: _forest([r for r in whole if r["target"] == target], mix)
        for target in sorted({record["target"] for record in records})
    }
    training = plots.accuracy_against(
        "steps",
        [
            record
            for record in records
            if record["target"] == first and record["method"] in learning
        ],
        "steps of training",
        mix=mix,
        title=f"Adaptation to {shorter[0]['target_origin']}, by its length",
        subtitle="every point a training of its own, at the strength chosen "
        f"for {most:,} steps",
    )
    return {**forests, "training": training}


def _forest(records, mix):
    shares = gap(records).items()
    recovered = ", ".join(f"{name} {share:.0%}" for name, share in shares)
    return plots.forest(
        records,
        mix=mix,
        baseline=BASELINE,
        title=f"Adaptation to {records[0]['target_origin']}",
        subtitle="unlabelled target images; share of the gap to the oracle "
        f"recovered: {recovered or 'none, the oracle is no better here'}",
    )


def gap(records):
    """Return method -> mean share of the gap to the oracle, best first.

    There is none where the oracle is no better than source only.
    """
    means = {
        arm.method: outcomes.seed_values(members).mean()
        for arm, members in arms.arms(records).items()
        if outcomes.measured(members)
    }
    lower, upper = means.pop(BASELINE), means.pop("target_oracle")
    if upper <= lower:
        return {}
    shares = {
        name: (mean - lower) / (upper - lower) for name, mean in means.items()
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


EXPERIMENT = Experiment(
    name="adapt",
    sizes={"normal": NORMAL, "quick": QUICK},
    runs=runs,
    figures=figures,
    trials=trials,
    baseline=BASELINE,
)
