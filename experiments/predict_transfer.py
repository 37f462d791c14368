"""predict-transfer: can I pick the checkpoint without training on my data?

Papers: LEEP (Nguyen et al. 2020, arXiv:2002.12462); Kornblith et al. 2019,
arXiv:1805.08974; and those of the scores in `transferability`.

Protocol, (a): one source, the article's network on one half of the CIFAR-10
classes, and 100 targets of three classes and 20 labels per class: 50 random
triples of MNIST, and the ten triples of the other half five times with other
images. The scores of the source, read from the labelled images alone, beside
the accuracy of a linear head trained on its features, and of fine-tuning on 20
of the targets, ten of either. At equal numbers of classes and images -log K and
-H(Y) are constants. Targets of one triple are drawn together where rho gets its
interval; different triples still share classes. (b): 13 checkpoints that differ
in training, width, dropout, labels and data, on one target, and what trusting
each score for one of them costs.

    make predict-transfer          on CIFAR-10 and MNIST
    make predict-transfer QUICK=1  on the embedded letters and digits
"""

import itertools
from typing import NamedTuple

import numpy as np

from ktransfer import plots
from ktransfer.analysis import arms, intervals, outcomes
from ktransfer.plots import Cloud
from ktransfer.runs.planning import Experiment, run_of

# The plain H-score is at its maximum with fewer images than features.
BALANCE = "class_balance"
SCORES = ("leep", "nce", "logme", "shrunk_h_score", "transrate", BALANCE)
NUM_CLASSES = 3


class Size(NamedTuple):
    source: str
    shuffled: str
    other: str
    pools: tuple
    targets_a_pool: int
    num_tuned: int
    labels_per_class: int
    steps: int
    epoch: int
    epochs: tuple
    checkpoint_target: str


NORMAL = Size(
    source="cifar10_0to4",
    shuffled="cifar10_0to4_shuffled",
    other="mnist_rgb",
    pools=(("cifar10", (5, 6, 7, 8, 9)), ("mnist", tuple(range(10)))),
    targets_a_pool=50,
    num_tuned=20,
    labels_per_class=20,
    steps=400,
    epoch=390,
    epochs=(0, 1, 2, 5, 10),
    checkpoint_target="cifar10_5to9",
)
QUICK = NORMAL._replace(
    source="letters_0to4",
    shuffled="letters_0to4_shuffled",
    other="digits_rgb",
    pools=(("letters", (5, 6, 7, 8, 9)), ("digits", tuple(range(10)))),
    targets_a_pool=5,
    num_tuned=2,
    labels_per_class=10,
    steps=40,
    epoch=40,
    epochs=(0, 1, 5),
    checkpoint_target="letters_5to9",
)


def runs(size):
    """Return the planned runs: of (a), then of (b)."""
    targets = [
        (f"{pool}_{'_'.join(map(str, classes))}", seed)
        for pool, known in size.pools
        for seed, classes in _triples(known, size.targets_a_pool)
    ]
    probed = [_run(size, target, seed) for target, seed in targets]
    few = size.num_tuned // len(size.pools)
    # The first of a pool are different triples.
    tuned = [
        run._replace(method="fine_tuning", scores=())
        for number, run in enumerate(probed)
        if number % size.targets_a_pool < few
    ]
    return probed + tuned + _checkpoints(size)


def _triples(known, count):
    """Return (seed, classes): random triples; the seed draws their images."""
    rng = np.random.default_rng([len(known), count])
    triples = list(itertools.combinations(known, NUM_CLASSES))
    order = np.resize(rng.permutation(len(triples)), count)
    return [(seed, triples[place]) for seed, place in enumerate(order)]


def _checkpoints(size):
    target = size.checkpoint_target
    variants = [{"source_steps": size.epoch * e} for e in size.epochs]
    variants += [
        {"backbone": f"{kind}_convnet"}
        for kind in ("narrow", "wide", "dropout")
    ]
    variants += [{"backbone": "vgg"}, {"backbone": "lenet"}]
    variants += [{"recipe": "label_smoothing"}]
    variants += [{"source": size.shuffled}, {"source": size.other}]
    return [
        _run(size, target, seed, **variant)
        for variant in variants
        for seed in (1000, 1001)
    ]


def _run(size, target, seed, **fields):
    usual = {"source": size.source, "scores": SCORES}
    usual["source_steps"] = size.epochs[-1] * size.epoch
    return run_of(
        "linear_probe",
        seed,
        source_seed=0,
        target=target,
        steps=size.steps,
        labels_per_class=size.labels_per_class,
        **{**usual, **fields},
    )


def figures(records, mix=False):
    """Return the figures of `records`, name -> figure.

    A run that diverged counts with accuracy 0; a target whose probe diverged
    while it was trained has no scores, and is left out.
    """
    arms.require_comparable(records, mix)
    absent = {
        f"not drawn, from {'+'.join(r['sources'])}: {r['reason']}"
        for r in records
        if r["status"] == "not_applicable"
    }
    records = outcomes.measured(arms.ordered(records))
    scored = [r for r in records if "score_values" in r]
    targets = [r for r in scored if r["seed"] < 1000]
    tuned = [r for r in records if r["method"] == "fine_tuning"]
    groups = _groups(targets, tuned)
    said = plots.remarks([*targets, *tuned])
    checkpoints = [r for r in scored if r["seed"] >= 1000]
    footer = [*sorted(absent), *plots.remarks(checkpoints)]
    return {
        "rho": _rho(groups, said),
        **{n: _plane(groups, n, said) for n in SCORES if n != BALANCE},
        "checkpoints": _checkpoint_figure(checkpoints, footer),
    }


class _Group(NamedTuple):
    """Targets of one pool, trained in one way; `scores` by name.

    `tasks` are their names, which targets of one triple share.
    """

    label: str
    scores: dict
    accuracies: list
    tasks: list


def _groups(probed, tuned):
    values = {_task(r): r["score_values"] for r in probed}
    found = []
    for how, members in (("linear head", probed), ("fine-tuning", tuned)):
        by_pool = {}
        for record in members:
            if _task(record) in values:
                pool = record["target_origin"].partition(",")[0]
                by_pool.setdefault(pool, []).append(record)
        for pool, rows in sorted(by_pool.items()):
            scores = {
                name: [values[_task(r)][name] for r in rows] for name in SCORES
            }
            accuracies = [100 * outcomes.accuracy(r) for r in rows]
            tasks = [r["target"] for r in rows]
            label = f"{how}, {pool}"
            found.append(_Group(label, scores, accuracies, tasks))
    return found


def _rho(groups, said):
    rows = []
    for group in groups:
        for name in SCORES:
            found = intervals.spearman_interval(
                group.scores[name], group.accuracies, group.tasks
            )
            label = f"{group.label} ({len(group.tasks)} of {found.count})"
            rows.append(plots.Row(name, name, *found[:3], label))
    return plots.intervals(
        rows,
        mark=0,
        title="What a score of the source says of training on a target",
        subtitle="Spearman's rho of score and accuracy over targets (their "
        "number, of how many triples of classes), with its 95 % bootstrap "
        "interval over triples",
        x_label="Spearman's rho",
        footer=[
            f"{NUM_CLASSES} classes and equal numbers of images throughout: "
            "class balance, -log K and -H(Y) are constants, which rank nothing",
            *said,
        ],
    )


def _plane(groups, name, said):
    clouds, remarks = [], []
    for group in groups:
        xs, ys = group.scores[name], group.accuracies
        clouds.append(Cloud(group.label, group.label, xs, ys))
        rho = intervals.spearman(xs, ys)
        remarks.append(f"{group.label} {rho:.2f} ({len(xs)})")
    return plots.plane(
        clouds,
        mean=False,
        footer=said,
        title=f"{name} of the source against what training reaches",
        subtitle=f"targets of {NUM_CLASSES} classes; Spearman's rho (targets): "
        + ", ".join(remarks),
        x_label=name,
        y_label="test accuracy on the target (%)",
    )


def _task(record):
    return record["target"], record["seed"]


def _checkpoint_figure(records, footer):
    groups = arms.arms(records)
    clouds = [
        Cloud(
            arm.setting or "usual",
            arm.label,
            [100 * r["source_test_accuracies"][0] for r in members],
            [100 * outcomes.accuracy(r) for r in members],
        )
        for arm, members in groups.items()
    ]
    regrets = [
        f"{name} {regret:.1f}" for name, regret in _regrets(groups).items()
    ]
    return plots.plane(
        clouds,
        title="Accuracy of the checkpoint at home and of a linear head on it",
        subtitle="one dot a seed of the target, means marked; accuracy lost by "
        "trusting a score, pp: " + ", ".join(regrets),
        footer=[f"Pearson's r: {'; '.join(_correlations(groups))}", *footer],
        x_label="accuracy of the source on its own test images (%)",
        y_label="accuracy of a linear head on the target (%)",
    )


def _correlations(groups):
    """Say how both accuracies go together, without what lies far from all."""
    # A cluster of its own would make r a matter of course.
    learnt = [
        members
        for members in groups.values()
        if members[0]["source_steps"] and not _is_shuffled(members[0])
    ]
    homes = [members[0]["sources"] for members in learnt]
    usual = max(homes, key=homes.count)
    alike = [members for members in learnt if members[0]["sources"] == usual]
    for told, chosen in (
        ("trained on true labels", learnt),
        ("of them of one source task", alike),
    ):
        r = intervals.pearson_interval(
            [members[0]["source_test_accuracies"][0] for members in chosen],
            [np.mean([outcomes.accuracy(r) for r in m]) for m in chosen],
        )
        interval = f"[{r.low:.2f}, {r.high:.2f}]"
        yield f"{r.mean:.2f} {interval} over the {r.count} {told}"


def _is_shuffled(record):
    return any("shuffled" in name for name in record["sources"])


def _regrets(groups):
    """Return score -> accuracy of the best checkpoint minus the chosen one."""
    reached = {
        arm: 100 * np.mean([outcomes.accuracy(r) for r in members])
        for arm, members in groups.items()
    }

    def mean(arm, name):
        if name == "source_accuracy":
            return groups[arm][0]["source_test_accuracies"][0]
        return np.mean([r["score_values"][name] for r in groups[arm]])

    return {
        name: max(reached.values())
        - reached[max(groups, key=lambda arm, name=name: mean(arm, name))]
        for name in ("source_accuracy", *SCORES)
        if name != BALANCE
    }


EXPERIMENT = Experiment(
    name="predict_transfer",
    sizes={"normal": NORMAL, "quick": QUICK},
    runs=runs,
    figures=figures,
)
