"""What is refused before Keras is imported: names, numbers, data, layers."""

import json
from collections.abc import Iterable
from typing import Any

from ktransfer import data, methods
from ktransfer.engine import kinds
from ktransfer.errors import KTransferError, unknown
from ktransfer.measures.transferability import SCORES
from ktransfer.models import named
from ktransfer.models.names import LAYERS, layer_names
from ktransfer.runs.run import EVALUATIONS, RECIPES, Run


def check_plan(planned: Any, what: str) -> None:
    """Refuse what is not a list of different `Run`s, each field of its type.

    Args:
        planned: what a script returned.
        what: whose it is, for the message: "mine: its runs".

    Raises:
        KTransferError: `E_ARGUMENT` with the first run that is wrong.
    """
    if not isinstance(planned, list | tuple) or not planned:
        raise KTransferError(
            "E_ARGUMENT", f"{what} are {planned!r}; expected a list of runs."
        )
    seen: dict[Run, int] = {}
    for number, run in enumerate(planned):
        place = f"{what}, number {number}"
        if not isinstance(run, Run):
            raise KTransferError(
                "E_ARGUMENT", f"{place}: {run!r} is no `Run`; expected one."
            )
        for name, expected in _TYPES.items():
            value = getattr(run, name)
            if not _is_of(value, expected):
                raise KTransferError(
                    "E_ARGUMENT",
                    f"{place}: {name} is {value!r}; expected {expected}.",
                )
        if run in seen:
            raise KTransferError(
                "E_ARGUMENT",
                f"{place}: it is number {seen[run]} again ({run.method}, seed "
                f"{run.seed}); expected each run once.",
            )
        seen[run] = number


_TEXT, _TEXTS = "a text", "a tuple of texts"
_INT, _MAYBE_INT = "an int", "an int or None"
_TYPES = {
    **dict.fromkeys(("method", "target", "backbone", "recipe"), _TEXT),
    "evaluation": _TEXT,
    **dict.fromkeys(("steps", "seed"), _INT),
    **dict.fromkeys(
        ("labels_per_class", "source_seed", "source_steps"), _MAYBE_INT
    ),
    **dict.fromkeys(("sources", "also", "scores", "source_models"), _TEXTS),
    "hyperparameters": "a tuple of pairs (name, value), values not lists",
}


def _is_of(value: Any, expected: str) -> bool:
    if expected == _TEXT:
        return isinstance(value, str)
    if expected in (_INT, _MAYBE_INT):
        # Not NumPy's, which JSON has not; `check_run` has the bounds.
        absent = value is None and expected == _MAYBE_INT
        return absent or isinstance(value, int)
    if not isinstance(value, tuple):
        return False
    if expected == _TEXTS:
        return all(isinstance(part, str) for part in value)
    return all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and _is_kept(pair[1])
        for pair in value
    )


def _is_kept(value: Any) -> bool:
    """Tell whether a record can hold `value` and a run be looked up by it."""
    try:
        hash(value)
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def check_run(run: Run) -> None:
    """Refuse a `Run` that could not be carried out.

    Raises:
        KTransferError: `E_UNKNOWN` with the valid names and the nearest, or
            `E_ARGUMENT` with the value and what was expected.
    """
    about = methods.describe(run.method)
    data.check_name(run.target)
    if run.backbone not in LAYERS:
        raise unknown("backbone", run.backbone, LAYERS)
    kinds.check("Count", steps=run.steps)
    if run.recipe not in RECIPES:
        raise unknown("recipe", run.recipe, RECIPES)
    if run.evaluation not in EVALUATIONS:
        raise unknown("evaluation", run.evaluation, EVALUATIONS)
    for name in run.also:
        data.check_name(name)
    for name in run.scores:
        if name not in SCORES:
            raise unknown("score", name, SCORES)
    kinds.check("Whole", seed=run.seed)
    if run.labels_per_class is not None:
        kinds.check("Count", labels_per_class=run.labels_per_class)
    _check_sources(run, about)
    for name, value in run.hyperparameters:
        if name not in about.hyperparameters:
            raise unknown(
                f"hyper-parameter of {run.method}", name, about.hyperparameters
            )
        kind = about.kinds.get(name)
        if kind:
            kind.check(name, value)
            if kind.layers and not run.source_models:
                _check_layers(value, run.backbone)


def check_data(planned: Iterable[Run]) -> None:
    """Load, and so check, the data of every run of `planned`.

    Raises:
        KTransferError: what `data.load` and `data.test_split` raise.
    """
    planned = list(planned)
    for target, labels in {(r.target, r.labels_per_class) for r in planned}:
        data.load(target, labels)
    for task in {
        t for r in planned for t in (r.target, *_tasks(r.sources), *r.also)
    }:
        data.digest(task)


def _tasks(sources):
    return [task for source in sources for task in source.split("_after_")]


def _check_sources(run, about):
    least, most = about.min_sources, about.max_sources
    given = len(run.sources) + len(run.source_models)
    if given < least or (most is not None and given > most):
        expected = str(least) if least == most else f"at least {least}"
        raise KTransferError(
            "E_ARGUMENT",
            f"{run.method} is given {given} sources; expected {expected}. "
            "Name each with --source.",
        )
    for task in _tasks(run.sources):
        data.check_name(task)
    for text in run.source_models:
        model, _ = named.parsed(text)
        if not named.network(model)[0]:
            named.check_file(model)
    if run.sources:
        kinds.check("Whole", source_steps=run.source_steps)
        kinds.check("Whole", source_seed=run.source_seed)


def _check_layers(value, backbone):
    valid = layer_names(backbone)
    for name in [value] if isinstance(value, str) else value or ():
        if name not in valid:
            raise unknown(f"layer of {backbone}", name, valid)
