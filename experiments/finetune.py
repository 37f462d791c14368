"""finetune: which fine-tuning recipe at my label budget?

Papers: L2-SP (Li et al. 2018, arXiv:1802.01483), BSS and Co-tuning (NeurIPS
2019 and 2020), discriminative rates and gradual unfreezing (Howard and Ruder
2018, arXiv:1801.06146), LP-FT (Kumar et al. 2022, arXiv:2202.10054).

Protocol: the article's network, trained for 10 epochs on one half of the
CIFAR-10 classes, goes to the other half at 10, 50 and 250 labels per class, 400
steps, five seeds, two sources. Every arm gets six trials of (learning rate,
strength) on five seeds of their own, at 50 labels per class, scored on a fifth
of those labelled images held out; the best is used at every budget. At the
smallest budget every strength runs, at the rate chosen, and training from
scratch is also given four times the steps everywhere. Ranks are over seeds of
one pair of tasks, so they speak of this pair alone.

    make finetune          on CIFAR-10
    make finetune QUICK=1  on the embedded letters
"""

import itertools
from typing import NamedTuple

from ktransfer import plots
from ktransfer.analysis import arms, intervals, outcomes
from ktransfer.runs.planning import Experiment, longer, run_of


class Size(NamedTuple):
    source: str
    target: str
    budgets: tuple
    tuning_budget: int
    steps: int
    source_steps: int
    seeds: int
    tuning_seeds: tuple
    num_rates: int


NORMAL = Size(
    source="cifar10_0to4",
    target="cifar10_5to9",
    budgets=(10, 50, 250),
    tuning_budget=50,
    steps=400,
    source_steps=3900,
    seeds=5,
    tuning_seeds=(100, 101, 102, 103, 104),
    num_rates=6,
)
QUICK = NORMAL._replace(
    source="letters_0to4",
    target="letters_5to9",
    budgets=(5, 20),
    tuning_budget=10,
    steps=40,
    source_steps=200,
    seeds=3,
    tuning_seeds=(100,),
    num_rates=2,
)
RATES = (1e-3, 3e-4, 1e-4, 3e-3, 1e-2, 3e-5)
# With a strength to choose, fewer rates, so that all have as many trials.
STRENGTHS = {
    "l2_sp": ("strength", (1e-2, 1e-1, 1.0)),
    "batch_spectral_shrinkage": ("strength", (1e-4, 1e-3, 1e-2)),
    "co_tuning": ("strength", (0.5, 2.3, 10.0)),
}
# Times the steps, so that no gain is only a head start.
LONGER = 4
ARMS = (
    "scratch",
    "random_features",
    "linear_probe",
    "fine_tuning",
    "discriminative_learning_rates",
    "gradual_unfreezing",
    "probe_then_fine_tune",
    *STRENGTHS,
)


def trials(size):
    """Return the runs that choose a learning rate and a strength."""
    return [
        _run(size, method, size.tuning_budget, seed, point)._replace(
            evaluation="validation"
        )
        for method in ARMS
        for point in _grid(size, method)
        for seed in size.tuning_seeds
    ]


def runs(size, chosen):
    """Return the runs that report, with the hyper-parameters chosen."""
    tuned = [
        _run(size, method, labels, seed, chosen[size.target][method])
        for labels in size.budgets
        for method in ARMS
        for seed in range(size.seeds)
    ]
    scratch = [run for run in tuned if run.method == "scratch"]
    others = [
        _run(size, method, size.budgets[0], seed, {**best, name: strength})
        for method, (name, strengths) in STRENGTHS.items()
        for best in [chosen[size.target][method]]
        for strength in strengths
        for seed in range(size.seeds)
        if strength != best[name]
    ]
    majority = [
        _run(size, "majority", labels, seed, {})
        for labels in size.budgets
        for seed in range(size.seeds)
    ]
    return tuned + longer(scratch, LONGER) + others + majority


def _grid(size, method):
    if method not in STRENGTHS:
        return [{"learning_rate": rate} for rate in RATES[: size.num_rates]]
    name, strengths = STRENGTHS[method]
    rates = RATES[: size.num_rates // len(strengths) or 1]
    points = itertools.product(rates, strengths)
    return [
        {"learning_rate": rate, name: strength}
        for rate, strength in itertools.islice(points, size.num_rates)
    ]


def _run(size, method, labels, seed, point):
    return run_of(
        method,
        seed,
        source=size.source,
        source_seed=seed % 2,
        source_steps=size.source_steps,
        target=size.target,
        steps=size.steps,
        labels_per_class=labels,
        hyperparameters=point,
    )


def figures(records, mix=False):
    """Return the figures of `records`, name -> figure."""
    budgets = sorted({record["labels_per_class"] for record in records})
    origin = records[0]["target_origin"]
    title = f"Fine-tuning recipes on {origin}"
    # The strength that was chosen is the one at every budget.
    shown = [
        record
        for members in arms.arms(records).values()
        if budgets[-1] in {r["labels_per_class"] for r in members}
        for record in members
    ]
    few = [r for r in records if r["labels_per_class"] == budgets[0]]
    forests = {
        f"gain_{labels}": plots.forest(
            shown,
            mix=mix,
            baseline="fine_tuning",
            title=title,
            subtitle=f"{labels} labels per class; every arm tuned by the same "
            "number of trials, on held-out labelled images of other seeds",
            labels_per_class=labels,
        )
        for labels in budgets
    }
    return {
        "accuracy": plots.accuracy_against_labels(shown, mix=mix, title=title),
        "ranks": _ranks(shown, title),
        "strength": plots.accuracy_against(
            "strength",
            [r for r in few if r["method"] in STRENGTHS],
            "strength of the penalty, in its authors' units",
            mix=mix,
            title=title,
            subtitle=f"{budgets[0]} labels per class, at the learning rate "
            "chosen",
        ),
        **forests,
    }


def _ranks(records, title):
    """Draw the mean ranks of arms of equal steps.

    Every seed ranks them at every budget. Its budgets share images, so it is
    the seeds that count as units in the critical difference.
    """
    groups = {
        arm: {
            (r["labels_per_class"], r["seed"]): outcomes.accuracy(r)
            for r in members
        }
        for arm, members in arms.arms(outcomes.measured(records)).items()
        if arm.method != "majority" and arm.steps_factor == 1
    }
    places = sorted(set.intersection(*map(set, groups.values())))
    seeds = {seed for _, seed in places}
    table = [[groups[arm][place] for arm in groups] for place in places]
    half = intervals.critical_difference(len(groups), len(seeds)) / 2
    ranks = dict(zip(groups, map(float, intervals.mean_ranks(table))))
    rows = [
        plots.Row(
            arm.label,
            arm.method,
            ranks[arm],
            ranks[arm] - half,
            ranks[arm] + half,
        )
        for arm in sorted(groups, key=ranks.get)
    ]
    return plots.intervals(
        rows,
        title=title,
        subtitle=f"mean rank of {len(groups)} arms over {len(places)} places, "
        f"{len(seeds)} seeds at each number of labels; arms whose bars do not "
        f"meet differ (Nemenyi over {len(seeds)} seeds, 5 % for all pairs)",
        footer=plots.remarks(records),
        x_label="mean rank, 1 is the best",
    )


EXPERIMENT = Experiment(
    name="finetune",
    sizes={"normal": NORMAL, "quick": QUICK},
    runs=runs,
    figures=figures,
    trials=trials,
)
