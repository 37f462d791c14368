"""robust-ft: does fine-tuning destroy what was known of other conditions?

Papers: Kumar et al. 2022 (LP-FT), arXiv:2202.10054; Wortsman et al. 2022
(WiSE-FT), arXiv:2109.01903.

Protocol: the article's network learns the digits 0-4 in many looks: turned,
coloured, inverted, over CIFAR-10 training images. It is tuned on 2,000 plain
digits 5-9, the images in distribution (ID); out of distribution (OOD) are test
digits 5-9 in the looks of pretraining, over CIFAR-10 test images. 600 steps,
five seeds. Learning rates with cosine decay: the probe's and LP-FT's is chosen
among six on a part of the ID training images, fine-tuning is shown at all six.
WiSE-FT goes from the probe to its tuning at 11 shares. Training from scratch is
also given four times the steps. Negative control: a source of one epoch.

    make robust-ft          on MNIST and CIFAR-10
    make robust-ft QUICK=1  on the embedded digits and letters
"""

from typing import NamedTuple

import numpy as np

from ktransfer import plots
from ktransfer.analysis import arms, outcomes
from ktransfer.plots import Cloud
from ktransfer.runs.planning import Experiment, longer, run_of


class Size(NamedTuple):
    source: str
    target: str
    shifted: str
    labels_per_class: int
    steps: int
    source_steps: int
    short_source_steps: int
    seeds: int
    tuning_seeds: tuple
    rates: tuple
    shares: tuple


NORMAL = Size(
    source="mnist_0to4_varied_over_cifar10",
    target="mnist_5to9_rgb",
    shifted="mnist_5to9_varied_over_cifar10",
    labels_per_class=400,
    steps=600,
    source_steps=4800,
    short_source_steps=480,
    seeds=5,
    tuning_seeds=(100,),
    rates=(1e-3, 3e-4, 1e-4, 3e-5, 3e-3, 1e-2),
    shares=tuple(number / 10 for number in range(11)),
)
QUICK = NORMAL._replace(
    source="digits_0to4_varied_over_letters",
    target="digits_5to9_rgb",
    shifted="digits_5to9_varied_over_letters",
    labels_per_class=40,
    steps=40,
    source_steps=200,
    short_source_steps=20,
    seeds=3,
    rates=(1e-3, 1e-4),
    shares=(0.0, 0.5, 1.0),
)
# What varies along the path of a method in the figures.
PATHS = {"fine_tuning": "learning_rate", "wise_ft": "alpha"}
# Times the steps, so that no gain is only a head start.
LONGER = 4
TUNED = (
    "scratch",
    "random_features",
    "linear_probe",
    "fine_tuning",
    "probe_then_fine_tune",
)


def trials(size):
    """Return the runs that choose a learning rate."""
    return [
        _run(size, method, seed, learning_rate=rate)._replace(
            evaluation="validation", also=()
        )
        for method in TUNED
        for rate in size.rates
        for seed in size.tuning_seeds
    ]


def runs(size, chosen):
    """Return the runs that report, with the rates chosen."""
    best = chosen[size.target]
    rate = {method: best[method]["learning_rate"] for method in TUNED}
    seeds = range(size.seeds)
    majority = [_run(size, "majority", seed) for seed in seeds]
    arms_ = [
        _run(size, method, seed, learning_rate=rate[method])
        for method in TUNED
        for seed in seeds
    ]
    scratch = [run for run in arms_ if run.method == "scratch"]
    every_rate = [
        _run(size, "fine_tuning", seed, learning_rate=other)
        for other in size.rates
        for seed in seeds
        if other != rate["fine_tuning"]
    ]
    path = [
        _run(
            size,
            "wise_ft",
            seed,
            learning_rate=rate["probe_then_fine_tune"],
            alpha=share,
        )
        for share in size.shares
        for seed in seeds
    ]
    control = [
        run._replace(source_steps=size.short_source_steps)
        for run in arms_
        if run.method not in ("scratch", "random_features")
    ]
    more = longer(scratch, LONGER)
    return majority + arms_ + more + every_rate + path + control


def _run(size, method, seed, **hyperparameters):
    if hyperparameters:
        hyperparameters["schedule"] = "cosine"
    return run_of(
        method,
        seed,
        source=size.source,
        source_seed=seed % 2,
        source_steps=size.source_steps,
        target=size.target,
        steps=size.steps,
        labels_per_class=size.labels_per_class,
        hyperparameters=hyperparameters,
        also=(size.shifted,),
    )


def figures(records, mix=False):
    """Return the figures of `records`, name -> figure."""
    arms.require_comparable(records, mix)
    longest = max(r["source_steps"] or 0 for r in records)
    whole = [r for r in records if r["source_steps"] in (None, longest)]
    short = [r for r in records if r["source_steps"] not in (None, longest)]
    return {
        "plane": _plane(whole, "plain digits against digits in other looks"),
        "control": _plane(short, "control: a source of one epoch"),
    }


def _plane(records, title):
    """Draw accuracy in distribution against out of it; diverged runs at 0."""
    clouds, chance = [], ""
    groups = arms.arms(outcomes.measured(arms.ordered(records)))
    for arm, members in sorted(groups.items(), key=_place):
        elsewhere = outcomes.accuracy_on(members[0]["also"][0])
        plain = [100 * outcomes.accuracy(record) for record in members]
        shifted = [100 * elsewhere(record) for record in members]
        if arm.method == "majority":
            # Far from all others, it would press them together.
            chance = f"; the most frequent class: {np.mean(plain):.0f} %, "
            chance += f"{np.mean(shifted):.0f} % OOD"
            continue
        label, path = arm.label, ""
        if varied := PATHS.get(arm.method):
            label = f"{dict(arm.hyperparameters)[varied]:g}"
            path = f"{arm.method}, by {varied}"
        clouds.append(Cloud(label, arm.method, plain, shifted, path))
    steps = max(record["source_steps"] or 0 for record in records)
    return plots.plane(
        clouds,
        title=title.capitalize(),
        subtitle=f"source of {steps:,} steps; every seed a dot, means marked"
        + chance,
        footer=plots.remarks(records),
        x_label="accuracy on plain digits, in distribution (%)",
        y_label="accuracy in the looks of pretraining, OOD (%)",
    )


def _place(item):
    """Sort key of an arm: paths go by their rate or share."""
    arm, _ = item
    settings = dict(arm.hyperparameters)
    rate, share = settings.get("learning_rate", 0), settings.get("alpha", 0)
    return arm.method, rate, share


EXPERIMENT = Experiment(
    name="robust_ft",
    sizes={"normal": NORMAL, "quick": QUICK},
    runs=runs,
    figures=figures,
    trials=trials,
)
