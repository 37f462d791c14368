"""What an experiment declares, and how it builds its runs. No Keras import."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ktransfer import methods
from ktransfer.analysis.arms import Selector
from ktransfer.runs.run import Run


class Experiment(NamedTuple):
    """What a script in `experiments/` declares, as its `EXPERIMENT`.

    Fields:
        name: of its folder in `results/`; `_quick` follows at that size.
        runs: a function that returns the runs that report. It is given the
            size if there are `sizes`, then the choice if there are `trials`:
            target -> method -> hyper-parameters, name -> value.
        figures: a function of records and of `mix` that returns the figures,
            name -> figure.
        sizes: "normal", and maybe "quick", -> what `runs` and `trials` are
            given; None for an experiment of one size.
        trials: a function that returns the runs that choose, on images that
            are held out; it is given the size if there are any. None where
            nothing is tuned.
        baseline: what gains are over: a method, or fields that select an arm.
        headline: methods that a short table shows, None for all.
    """

    name: str
    runs: Callable[..., Sequence[Run]]
    figures: Callable[..., Mapping[str, Any]]
    sizes: Mapping[str, Any] | None = None
    trials: Callable[..., Sequence[Run]] | None = None
    baseline: Selector = "scratch"
    headline: tuple[str, ...] | None = None


def run_of(
    method: str,
    seed: int,
    *,
    source: str,
    second: str = "",
    source_seed: int | None,
    source_steps: int,
    hyperparameters: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Run:
    """Return a run of `method` from as many sources as it takes.

    The experiment that plans it fills in its name.

    Args:
        source: task of its source.
        second: task of the second source of a method that takes several; ""
            for the same.
        source_seed, source_steps: of its sources, if it has any.
        hyperparameters: name -> value.
        fields: any others of `Run`.
    """
    sources = methods.sources_for(method, source, second or source)
    return Run(
        experiment="",
        method=method,
        seed=seed,
        sources=sources,
        source_seed=source_seed if sources else None,
        source_steps=source_steps if sources else None,
        hyperparameters=tuple(sorted((hyperparameters or {}).items())),
        **fields,
    )


def longer(runs: Iterable[Run], times: int) -> list[Run]:
    """Return `runs` of so many times the steps.

    Training from scratch that may go on for as long as its source did shows
    that a gain is more than a head start.
    """
    return [run._replace(steps=times * run.steps) for run in runs]


# They take the architecture of a source, and none of its weights.
ARCHITECTURE = ("random_features", "structure_transfer")


def reads_weights(run: Run) -> bool:
    """Tell whether the weights of its sources can move a number of `run`.

    What learns source and target together, or adapts one to the other, reads
    the images of the source's task, and weights only if told `from_source`.
    """
    sourced = run.sources or run.source_models
    if not sourced or run.method in ARCHITECTURE:
        return False
    known = methods.describe(run.method).hyperparameters
    return {**known, **dict(run.hyperparameters)}.get("from_source", True)


def outcome(run: Run) -> Run:
    """Return `run` without what its method does not read.

    Two runs that differ and have equal outcomes would be one training, done
    twice: its source was trained from another seed, and no weight of it is
    read, or it is training from scratch under another name.
    """
    if reads_weights(run):
        return run
    usual = Run._field_defaults["backbone"]
    suites = run.backbone == usual and not run.source_models
    if run.method == "structure_transfer" and suites:
        run = run._replace(method="scratch", sources=())
    return run._replace(
        backbone=run.backbone if run.sources else usual,
        source_seed=None,
        source_steps=None,
        recipe=Run._field_defaults["recipe"],
    )
