"""A run and how its sources are made: identity and fingerprint.

Equal runs have equal records. A record whose fingerprint still holds is not
run again, whatever the file times say. No Keras import.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ktransfer import data, files, fingerprints, methods
from ktransfer.models import named

_PACKAGE = Path(__file__).resolve().parents[1]
# What a run may be measured by, and how its sources may be trained.
EVALUATIONS = ("test", "validation", "information")
RECIPES = ("pretrain", "label_smoothing", "mixed_bfloat16")


class Pretraining(NamedTuple):
    """How a source is made: what to train, on what, how long, from which seed.

    `after` names the task whose source it goes on from; all sources of one
    seed and backbone start from the same initial weights. `recipe` names the
    function of `sources` that trains it.
    """

    task: str
    after: str | None
    backbone: str
    steps: int
    seed: int
    recipe: str = "pretrain"


class Run(NamedTuple):
    """One training and one evaluation; equal runs have equal records.

    `sources` are names of tasks; `b_after_a` is the source of task a, trained
    on by task b. `labels_per_class` None means all labels.

    `evaluation` is "test", or for a trial that tunes, with the test split
    closed, "validation", accuracy on a part of the labelled images that is
    held out, or "information", which reads no label (see `measures`). `also`
    names tasks whose test images the model is measured on as well, `scores`
    functions of `transferability` that judge the source. `source_models` are
    the user's own, MODEL[:PREPROCESSING] each (see `models.named`).
    """

    experiment: str
    method: str
    target: str
    steps: int
    seed: int
    labels_per_class: int | None = None
    sources: tuple[str, ...] = ()
    source_seed: int | None = None
    source_steps: int | None = None
    backbone: str = "convnet"
    hyperparameters: tuple[tuple[str, Any], ...] = ()
    evaluation: str = "test"
    also: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    recipe: str = "pretrain"
    source_models: tuple[str, ...] = ()


# At their default these fields stay out of a record and of its fingerprint.
_OPTIONAL = ("evaluation", "also", "scores", "recipe", "source_models")


# Identity


def pretrainings(run: Run) -> list[Pretraining]:
    """Return the `Pretraining` of each source of `run`, in order."""
    return [_pretraining(name, run) for name in run.sources]


def _pretraining(name, run):
    task, _, after = name.partition("_after_")
    return Pretraining(
        task,
        after or None,
        run.backbone,
        run.source_steps,
        run.source_seed,
        run.recipe,
    )


def before(pretraining: Pretraining) -> Pretraining | None:
    """Return the `Pretraining` that this one goes on from, or None."""
    if pretraining.after is None:
        return None
    return pretraining._replace(task=pretraining.after, after=None)


def in_precision(run: Run, precision: str) -> Run:
    """Return `run` with all trainings in `precision`, in a folder of its own.

    A source that has a recipe of its own keeps it, and so its precision.
    """
    if precision == "float32":
        return run
    given = dict(run.hyperparameters)
    if "precision" in methods.describe(run.method).hyperparameters:
        given["precision"] = precision
    usual = run.sources and run.recipe == "pretrain"
    return run._replace(
        experiment=f"{run.experiment}_{precision}",
        hyperparameters=tuple(sorted(given.items())),
        recipe=precision if usual else run.recipe,
    )


def as_fields(run: Run) -> dict[str, Any]:
    """Return `run` as the dictionary that its record holds."""
    fields = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in run._asdict().items()
        if name not in _OPTIONAL or value != Run._field_defaults[name]
    }
    fields["hyperparameters"] = dict(run.hyperparameters)
    return fields


def from_fields(fields: Mapping[str, Any]) -> Run:
    """Return the `Run` of a record."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
        if name in Run._fields
    }
    # JSON has no tuples, and a run is looked up by its hash.
    pairs = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields["hyperparameters"].items()
    }
    values["hyperparameters"] = tuple(sorted(pairs.items()))
    return Run(**values)


# Fingerprints


def fingerprint(run: Run) -> str:
    """Return the sha256 of everything that can move a number of `run`."""
    parts = {
        "code": code(run),
        "data": [_data(name) for name in (run.target, *run.also)],
        "run": as_fields(run._replace(experiment="")),
        "sources": [source_fingerprint(p) for p in pretrainings(run)],
        "switches": fingerprints.switches(),
    }
    if run.source_models:
        parts["source_models"] = [_digest(text) for text in run.source_models]
    return files.sha256(canonical(parts).encode())


# Read once a process: a file of weights has hundreds of megabytes.
_digest = functools.cache(named.digest)


def _data(name):
    return [data.digest(name), *data.classes(name)]


def code(run: Run) -> str:
    """Return the sha256 of the code behind `run`, which is known without data.

    That of its sources is among it.
    """
    starts = [
        (methods.path(run.method), "transfer"),
        (_PACKAGE / "runs" / "carry_out.py", "_record"),
    ]
    choices = [("EVALUATIONS", (run.evaluation,)), ("SCORES", run.scores)]
    if run.source_models:
        starts.append((_PACKAGE / "models" / "own.py", "load_source"))
    if run.sources:
        starts.append((_PACKAGE / "runs" / "sources.py", "load"))
        choices += _made_by(run)
    return fingerprints.code(*starts, choices=tuple(choices))


def _source_code(pretraining):
    start = _PACKAGE / "runs" / "sources.py", "make"
    return fingerprints.code(start, choices=_made_by(pretraining))


def _made_by(made):
    """Return the entries that a source rests on, of a run or `Pretraining`."""
    return ("BUILDERS", (made.backbone,)), ("RECIPES", (made.recipe,))


@functools.cache
def source_fingerprint(pretraining: Pretraining) -> str:
    """Return the sha256 of everything that can move a weight of a source."""
    base = before(pretraining)
    parts = {
        "after": base and source_fingerprint(base),
        "code": _source_code(pretraining),
        "data": _data(pretraining.task),
        "pretraining": pretraining._asdict(),
        "switches": fingerprints.switches(),
    }
    return files.sha256(canonical(parts).encode())


def canonical(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no NaN."""
    return json.dumps(
        value,
        allow_nan=False,
        ensure_ascii=False,
        separators=(",", ":"),
        sort_keys=True,
    )
