"""An experiment's script: found, loaded, planned and tuned. No Keras import.

A script in `experiments/` declares its `EXPERIMENT`, a `planning.Experiment`.
What is wrong with it, or with its plan, is said before anything runs.
"""

import importlib.util
import inspect
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any, NamedTuple

from ktransfer import files, methods, runs
from ktransfer.analysis.record import Record
from ktransfer.errors import KTransferError, unknown
from ktransfer.runs import checks
from ktransfer.runs.planning import Experiment
from ktransfer.runs.run import Run

# One's own, then the suite's: beside the package in a checkout, else in it.
_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (
    Path("experiments"),
    _PACKAGE.parent / "experiments",
    _PACKAGE / "experiments",
)
SIZES = ("normal", "quick")
# Target -> method -> hyper-parameters.
Choice = dict[str, dict[str, dict[str, Any]]]


class Loaded(NamedTuple):
    """A loaded script, and how its runs are carried out.

    Fields:
        script: the module.
        experiment: what it declares.
        quick: whether at its small size.
        precision: of all trainings.
    """

    script: ModuleType
    experiment: Experiment
    quick: bool = False
    precision: str = "float32"


def names() -> list[str]:
    """Return the names of one's own scripts and the suite's."""
    return sorted(_paths())


def _paths() -> dict[str, Path]:
    """Return name -> script; one's own, in `experiments/`, comes first."""
    return {
        path.stem: path
        for folder in reversed(_FOLDERS)
        for path in folder.glob("*.py")
        if not path.name.startswith("_")
    }


def load(name: str, quick: bool = False, precision: str = "float32") -> Loaded:
    """Return the script that is given by its path or its name.

    Raises:
        KTransferError: `E_UNKNOWN` for no such script, `E_ARGUMENT` for one
            that cannot be loaded or declares no experiment, or if it has no
            quick size.
    """
    path = _found(name)
    script = _imported(path)
    experiment = getattr(script, "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        raise _refused(
            path.name,
            "it declares no experiment; expected EXPERIMENT = "
            "planning.Experiment(name=..., runs=..., figures=...)",
        )
    _check(experiment, path.name)
    if quick and "quick" not in (experiment.sizes or {}):
        raise KTransferError(
            "E_ARGUMENT", f"{path.stem} comes in one size; leave out --quick."
        )
    return Loaded(script, experiment, quick, precision)


def _found(name: str) -> Path:
    path = Path(name)
    if path.suffix != ".py":
        path = _paths().get(name.replace("-", "_"), path)
    if not path.is_file():
        raise unknown("experiment", name, names())
    return path


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    _guarded(path.name, "it cannot be loaded", spec.loader.exec_module, script)
    return script


def _guarded(name: str, what: str, function: Any, *args: Any, **named: Any):
    """Call what a script defines; its mistake is one line, not a traceback."""
    try:
        return function(*args, **named)
    except KTransferError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        kind = type(error).__name__
        raise _refused(name, f"{what} ({kind}: {text})") from error


def _refused(name: str, why: str) -> KTransferError:
    return KTransferError("E_ARGUMENT", f"{name}: {why}.")


def _is_sizes(value: Any) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, Mapping)
        and "normal" in value
        and set(value) <= {*SIZES}
    )


def _is_methods(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, tuple | list) and all(
        isinstance(name, str) for name in value
    )


def _draws(value: Any) -> bool:
    """Tell whether `value` can be called as figures are."""
    try:
        inspect.signature(value).bind([], mix=False)
    except TypeError:
        return False
    except ValueError:  # A built-in function has none.
        pass
    return True


def _is_selector(value: Any) -> bool:
    if isinstance(value, Mapping):
        return set(value) <= set(Record.__annotations__)
    return isinstance(value, str)


# Field of an `Experiment` -> whether a value is right, and what is.
_FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "name": (
        lambda value: isinstance(value, str) and runs.NAME.fullmatch(value),
        "lower-case letters, digits and underscores",
    ),
    "runs": (callable, "a function"),
    "figures": (_draws, "a function (records, mix=False)"),
    "trials": (
        lambda value: value is None or callable(value),
        "a function, or None",
    ),
    "sizes": (_is_sizes, "a dictionary of normal and maybe quick, or None"),
    "baseline": (
        _is_selector,
        "a method, or a dictionary of fields of a run",
    ),
    "headline": (_is_methods, "a tuple of methods, or None"),
}


def _check(experiment: Experiment, name: str) -> None:
    """Refuse a declaration whose fields are not what they must be."""
    for field, (is_right, expected) in _FIELDS.items():
        value = getattr(experiment, field)
        if not is_right(value):
            raise _refused(
                name, f"its {field} is {value!r}; expected {expected}"
            )
    for method in experiment.headline or ():
        methods.path(method)
    if isinstance(experiment.baseline, str):
        methods.path(experiment.baseline)


def folder(loaded: Loaded) -> str:
    """Return the name of the folder of its results."""
    quick = "_quick" if loaded.quick else ""
    precise = "" if loaded.precision == "float32" else f"_{loaded.precision}"
    return f"{loaded.experiment.name}{quick}{precise}"


def trials(loaded: Loaded) -> list[Run]:
    """Return the runs that tune, none for most experiments.

    Raises:
        KTransferError: `E_ARGUMENT` for a plan that is none.
    """
    if loaded.experiment.trials is None:
        return []
    return _asked(loaded, "trials")


def planned(loaded: Loaded, results: str | Path) -> list[Run]:
    """Return the runs that report, with the choice that the trials make.

    Raises:
        KTransferError: `E_RECORD` if a trial has no record, or if the choice
            on disk, made before any test split was opened, is another;
            `E_ARGUMENT` for a plan that is none.
    """
    tuning = trials(loaded)
    if not tuning:
        return _asked(loaded, "runs")
    chosen = {
        target: {method: best["hyperparameters"] for method, best in of.items()}
        for target, of in json.loads(_choice_text(tuning, results)).items()
    }
    return _asked(loaded, "runs", chosen)


def rehearse(loaded: Loaded) -> list[Run]:
    """Return all runs, with the first trial of each arm as its choice.

    What is wrong with a plan shows so before any trial has run.

    Raises:
        KTransferError: `E_ARGUMENT` for a plan that is none.
    """
    tuning = trials(loaded)
    if not tuning:
        return _asked(loaded, "runs")
    chosen: Choice = {}
    for run in tuning:
        best = chosen.setdefault(run.target, {})
        best.setdefault(run.method, dict(run.hyperparameters))
    return tuning + _asked(loaded, "runs", chosen)


def _asked(loaded: Loaded, field: str, *chosen: Choice) -> list[Run]:
    """Return what a function of the experiment plans, checked and named."""
    experiment, sizes = loaded.experiment, loaded.experiment.sizes
    size = () if sizes is None else (sizes[SIZES[loaded.quick]],)
    found = _guarded(
        experiment.name,
        f"its {field} cannot be planned",
        getattr(experiment, field),
        *size,
        *chosen,
    )
    checks.check_plan(found, f"{experiment.name}: its {field}")
    name = experiment.name + ("_quick" if loaded.quick else "")
    return [
        runs.in_precision(run._replace(experiment=name), loaded.precision)
        for run in found
    ]


def figures(
    loaded: Loaded, records: list[Record], mix: bool = False
) -> Mapping[str, Any]:
    """Return the figures of an experiment's records, name -> figure.

    Raises:
        KTransferError: `E_ARGUMENT` if the script fails or gives no figures,
            and what it raises.
    """
    name = loaded.experiment.name
    found = _guarded(
        name,
        "its figures cannot be drawn, all records are kept",
        loaded.experiment.figures,
        records,
        mix=mix,
    )
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(
        isinstance(key, str) and hasattr(value, "savefig")
        for key, value in found.items()
    ):
        raise _refused(
            name,
            f"its figures are {found!r}; expected a dictionary, name -> "
            "figure; all records are kept",
        )
    return found


def choice(loaded: Loaded, results: str | Path) -> str:
    """Return the sha256 of the choice behind `planned`, "" without trials.

    Raises:
        KTransferError: as `planned`.
    """
    tuning = trials(loaded)
    if not tuning:
        return ""
    return files.sha256(_choice_text(tuning, results).encode())


def _choice_text(tuning: list[Run], results: str | Path) -> str:
    """Return the choice on disk, which must be what the trials give."""
    path = _choice_path(tuning, results)
    if not path.exists():
        raise KTransferError(
            "E_RECORD", f"{path} is not there; run the experiment first."
        )
    text = path.read_text(encoding="utf-8").removesuffix("\n")
    if text != runs.canonical(choose(tuning, results, stale=True)):
        raise KTransferError(
            "E_RECORD",
            f"{path} is not the choice that the trials on record make; run "
            "the experiment again.",
        )
    return text


def choose(
    tuning: list[Run], results: str | Path, stale: bool = False
) -> Choice:
    """Return the best trial of each method on each target, by its mean score.

    Of equal ones the first wins, in the order of the script's grid.

    Args:
        tuning: list of `Run`.
        results: folder of the records.
        stale: take the records of an earlier state of the code too.

    Returns:
        target -> method -> dictionary with `hyperparameters`, `score`,
        `num_trials` and `num_labels`, the labelled images that tuning read.
    """
    records = {
        runs.from_fields(record): record
        for record in runs.collect(results, tuning)
        if record["status"] != "failed" and (stale or not record["stale"])
    }
    if absent := [run for run in tuning if run not in records]:
        raise KTransferError(
            "E_RECORD",
            f"{len(absent)} of {len(tuning)} trials have no record that holds; "
            "run the experiment first.",
        )
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in tuning:
        groups[run.target, run.method].append(run)
    found: Choice = defaultdict(dict)
    for (target, method), members in groups.items():
        found[target][method] = _best(members, records)
    return dict(found)


def _best(
    members: Iterable[Run], records: Mapping[Run, Record]
) -> dict[str, Any]:
    grid: dict[tuple, list[float]] = defaultdict(list)
    labels: dict[int, int] = {}
    for run in members:
        record = records[run]
        grid[run.hyperparameters].append(_score(record))
        reads = run.evaluation == "validation"
        labels[run.seed] = record["num_labels"] if reads else 0
    best = max(grid, key=lambda point: fmean(grid[point]))
    return {
        "hyperparameters": dict(best),
        "num_labels": sum(labels.values()),
        "num_trials": len(grid),
        "score": fmean(grid[best]),
    }


def _score(record: Record) -> float:
    """Return what a trial is chosen by; one that diverged has the worst.

    A method that does not apply has nothing to choose, and says so again.
    """
    if record["status"] == "not_applicable":
        return 0.0
    if record["status"] != "ok":
        # An information may lie below 0.
        return -math.inf
    if "validation_accuracy" in record:
        return record["validation_accuracy"]
    return record["information"]


def write_choice(tuning: list[Run], results: str | Path) -> Path:
    """Put what `choose` finds on disk, before a test split is opened.

    A folder that cannot be written may hold it already.

    Raises:
        KTransferError: what `choose` and `files.write` raise.
    """
    path = _choice_path(tuning, results)
    content = f"{runs.canonical(choose(tuning, results))}\n".encode()
    if not path.is_file() or path.read_bytes() != content:
        files.write(path, content)
    return path


def _choice_path(tuning: list[Run], results: str | Path) -> Path:
    return Path(results) / tuning[0].experiment / "chosen.json"
