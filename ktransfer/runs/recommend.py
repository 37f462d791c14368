"""Which way of transferring suits this data: a race under equal budgets.

Controls come first, then methods in the order of the gain that is expected of
a second. In each rung all that are left get the same steps and seeds, and are
measured on held-out parts of the training images; the best third goes on. The
test part is opened once, for the winner and the controls. All runs are records,
so that the same command goes on where it was stopped. No Keras import.
"""

import concurrent.futures
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from ktransfer import data, files, methods, runs
from ktransfer.analysis.record import Record
from ktransfer.errors import KTransferError
from ktransfer.models import named
from ktransfer.runs import sweep, workers
from ktransfer.runs.planning import ARCHITECTURE
from ktransfer.runs.run import Run

CONTROLS = ("majority", "logistic_regression", "random_features", "scratch")
# Gain over training from scratch in points, and seconds as shares of its own:
# of results/cifar10_mnist at 10 labels a class. They order the methods.
EXPECTED = {
    "majority": (-72.7, 0.0),
    "logistic_regression": (-7.0, 0.02),
    "random_features": (1.1, 0.12),
    "scratch": (0.0, 1.0),
    "weighted_sum": (7.7, 0.1),
    "gradual_unfreezing": (7.6, 0.51),
    "l2_sp": (7.3, 1.0),
    "probe_then_fine_tune": (7.3, 0.57),
    "concatenation": (7.3, 0.09),
    "wise_ft": (7.0, 0.55),
    "expert_features": (6.9, 0.07),
    "delta": (6.7, 1.02),
    "bias_tuning": (6.7, 0.63),
    "discriminative_learning_rates": (6.6, 1.0),
    "co_tuning": (6.6, 1.07),
    "layer_transfer": (6.5, 0.12),
    "learning_without_forgetting": (6.5, 1.04),
    "feature_extraction": (6.4, 0.12),
    "surgical_fine_tuning": (6.4, 0.12),
    "linear_probe": (6.3, 0.03),
    "batch_spectral_shrinkage": (6.3, 0.97),
    "ensemble": (6.1, 1.03),
    "fine_tuning": (5.8, 1.01),
    "low_rank_adaptation": (5.7, 0.93),
    "feature_noise": (5.6, 1.04),
    "weight_noise": (5.6, 1.0),
    "fisher_merging": (5.5, 1.5),
    "shrink_and_perturb": (5.5, 1.0),
    "nonlinear_interpolation": (5.3, 1.0),
    "interpolation": (5.3, 0.99),
    "ties_merging": (5.3, 0.99),
    "task_arithmetic": (5.3, 1.0),
    "adapters": (5.1, 0.99),
    "relational_distillation": (4.9, 1.77),
    "knowledge_merge": (4.9, 1.05),
    "semantic_loss": (4.6, 1.04),
    "fitnets": (4.2, 1.09),
    "multi_teacher": (3.9, 1.13),
    "model_soup": (3.6, 1.07),
    "knowledge_transfer_network": (3.5, 1.12),
    "distillation": (3.4, 1.08),
    "attention_transfer": (2.9, 1.09),
    "mean_variance": (2.3, 1.01),
    "convolution_layers": (1.2, 0.1),
    "self_supervised": (0.9, 0.99),
}
_OTHERS = (0.5, 1.5)
# They come first: what people do with a source, and what tells its worth.
_USUAL = ("linear_probe", "fine_tuning")
# A head on frozen features goes to its minimum, at any number of steps.
_DIRECT = (("solver", "direct"), ("strength", 1e-3))
# What the first learn two tasks for, and the second adapt for, a user's model
# lacks: its images, and classes that are the target's.
_LEFT_OUT = ("domain", "multitask")
# A metric, as the record of a final run has it.
_ON_TEST = {
    "accuracy": "test_accuracy",
    "balanced_accuracy": "balanced_accuracy",
}
METRICS = tuple(_ON_TEST)
# Share of the steps, number of seeds and share of the time of each rung.
_RUNGS = ((0.25, 1, 0.4), (0.5, 2, 0.6), (1.0, 3, 1.0))
_KEPT = 1 / 3
# What the default learning rate is divided by, from the second rung on.
_LOWER = 5
_BATCH = 16
# Epochs of the whole budget, and its bounds in steps.
_EPOCHS, _LEAST, _MOST = 20, 40, 400
NO_TIME = "no time was left"
# Of the time: for the race, the rest for the winner and the controls.
_RACE = 0.55
# Of the last rung and of the final runs: as many as there is time for.
_SEEDS = (9, 5, 3)


class Candidate(NamedTuple):
    """A method with its sources and settings: what a rung compares."""

    method: str
    models: tuple[str, ...]
    hyperparameters: tuple[tuple[str, Any], ...] = ()


class Plan(NamedTuple):
    """What is going to be compared.

    Fields:
        experiment: name of its folder in the results.
        target, labels_per_class: as of a `Run`.
        controls, candidates: in the order in which they are tried.
        left_out: method -> why it is not tried.
    """

    experiment: str
    target: str
    labels_per_class: int | None
    controls: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]

    def label(self, candidate: Candidate) -> str:
        """Return what a candidate is called among the others of the plan."""
        text = candidate.method
        several = [c for c in self.candidates if c.method == candidate.method]
        if len(several) > 1:
            text += f" from {'+'.join(map(_stem, candidate.models))}"
        rate = dict(candidate.hyperparameters).get("learning_rate")
        return f"{text} (rate {rate:g})" if rate else text


def _stem(model):
    return Path(named.parsed(model)[0]).stem


class Found(NamedTuple):
    """How a race ended.

    Fields:
        steps: of the last rung and of the final runs.
        held_out: records of the last rung in which each was, by candidate, the
            best first.
        winner: the first of them that reached the last rung.
        final: records on the test part, of the winner and the controls, by
            candidate.
        left_out: method -> why it was not tried, or not to its end.
    """

    steps: int
    held_out: dict[Candidate, list[Record]]
    winner: Candidate
    final: dict[Candidate, list[Record]]
    left_out: dict[str, str]


def plan(
    experiment: str,
    target: str,
    models: Sequence[str],
    labels_per_class: int | None = None,
) -> Plan:
    """Return what is compared on `target` with the user's `models`.

    Args:
        experiment: name of the folder in the results.
        target: name of the data set.
        models: texts as of `--source-model`, at least one.
        labels_per_class: None for all.
    """
    left_out, found = {}, []
    for name, family in methods.names().items():
        about = methods.describe(name)
        given = _DIRECT if "solver" in about.hyperparameters else ()
        if name in CONTROLS:
            continue
        if family in _LEFT_OUT:
            left_out[name] = "it needs images of the source's own task"
        elif about.max_sources == 0:
            found.append(Candidate(name, ()))
        elif about.min_sources > len(models):
            left_out[name] = f"it needs {about.min_sources} sources"
        elif about.max_sources == 1:
            found += [Candidate(name, (model,), given) for model in models]
        else:
            found.append(Candidate(name, tuple(models), given))
    return Plan(
        experiment,
        target,
        labels_per_class,
        tuple(
            Candidate(name, tuple(models[:1]) * _reads_a_source(name))
            for name in CONTROLS
        ),
        tuple(sorted(found, key=_promise, reverse=True)),
        left_out,
    )


def _reads_a_source(name):
    return methods.describe(name).min_sources > 0


def _promise(candidate):
    gain = EXPECTED.get(candidate.method, _OTHERS)[0]
    return candidate.method in _USUAL, gain / _share(candidate)


def run_of(
    planned: Plan, candidate: Candidate, steps: int, seed: int, evaluation: str
) -> Run:
    """Return the run of a candidate."""
    known = methods.describe(candidate.method).hyperparameters
    batch = (("batch_size", _BATCH),) * ("batch_size" in known)
    return Run(
        planned.experiment,
        candidate.method,
        planned.target,
        steps,
        seed,
        planned.labels_per_class,
        hyperparameters=tuple(sorted((*batch, *candidate.hyperparameters))),
        evaluation=evaluation,
        source_models=candidate.models,
    )


def _share(candidate):
    # A run has a cost of its own, whatever its steps.
    return EXPECTED.get(candidate.method, _OTHERS)[1] + 0.3


class Race:
    """Carries out runs of a plan while there is time, and keeps their pace.

    Args:
        planned: the `Plan`.
        results: folder of the records.
        jobs: worker processes.
        seconds: that all may take.
        say: called with a line of progress.
        metric: "accuracy" or "balanced_accuracy".
        started: by `time.monotonic`, from when on the seconds count; None for
            now.
    """

    def __init__(
        self,
        planned: Plan,
        results: str | Path,
        jobs: int,
        seconds: float,
        say: Callable[[str], None] = lambda line: None,
        metric: str = "accuracy",
        started: float | None = None,
    ):
        self.planned, self.results, self.jobs = planned, results, jobs
        self.say, self.metric = say, metric
        self.started = time.monotonic() if started is None else started
        self.seconds = seconds
        self.left_out = dict(planned.left_out)
        # Seconds of a run by candidate, and how many steps it had.
        self.pace: dict[Candidate, tuple[float, int]] = {}
        self.executor = self._started()

    def _started(self) -> Executor:
        """Return workers that have loaded what they need."""
        executor = workers.local_executor(self.jobs)
        ready = [executor.submit(time.sleep, 0) for _ in range(self.jobs)]
        concurrent.futures.wait(ready)
        return executor

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)

    def estimate(self, candidate: Candidate, steps: int) -> float:
        """Return the seconds that a run is likely to take."""
        if candidate in self.pace:
            seconds, had = self.pace[candidate]
            # Part of them went into building the model and tracing it.
            return seconds * (0.4 + 0.6 * max(steps / had, 0.2))
        alike = [
            self.estimate(other, steps) / _share(other) for other in self.pace
        ]
        return (median(alike) if alike else 5.0) * _share(candidate)

    def compare(
        self,
        candidates: Iterable[Candidate],
        steps: int,
        seeds: Sequence[int],
        evaluation: str,
        left: float,
        keep: Callable | None = None,
    ) -> dict[Candidate, list[Record]]:
        """Carry out the runs that fit, and return their records.

        Args:
            candidates: in the order in which they are tried.
            steps: of each run.
            seeds: of the runs of each candidate.
            evaluation: as of `Run`.
            left: seconds that must be left afterwards.
            keep: as of `carry_out`.
        """
        found: dict[Candidate, list[Record]] = {}
        waiting = list(candidates)
        running: dict[concurrent.futures.Future, Candidate] = {}
        while waiting or running:
            while waiting and len(running) < self.jobs:
                candidate = waiting.pop(0)
                planned = [
                    run_of(self.planned, candidate, steps, seed, evaluation)
                    for seed in seeds
                ]
                needed = self.estimate(candidate, steps) * len(seeds)
                free = candidate in self.planned.controls
                fits = self.left() - needed >= left or free
                if not fits and sweep.without_record(planned, self.results):
                    self.leave_out(candidate, NO_TIME)
                    continue
                future = self.executor.submit(
                    sweep.carry_out_all, self.results, planned, {}, keep
                )
                running[future] = candidate
            if running:
                self._collect(running, found, steps, len(seeds), left)
        return found

    def _collect(self, running, found, steps, count, left):
        """Wait for what ends first; what runs over its time is given up."""
        over = self.left() - left
        done, _ = concurrent.futures.wait(
            running,
            timeout=max(over, 0) + 0.25 * self.seconds,
            return_when=concurrent.futures.FIRST_COMPLETED,
        )
        if not done:
            for candidate in running.values():
                self.leave_out(candidate, "it ran out of its time")
            running.clear()
            workers.stop(self.executor)
            self.executor = self._started()
        for future in done:
            candidate = running.pop(future)
            records, seconds = future.result()
            self._note(candidate, records, seconds / count, steps)
            if all(
                value(record, self.metric) is not None for record in records
            ):
                found[candidate] = records

    def _note(self, candidate, records, seconds, steps):
        bad = next((r for r in records if r["status"] != "ok"), None)
        if bad:
            self.leave_out(candidate, bad["reason"] or bad["status"])
            return
        # A record may be of a run that ended long ago.
        spent = fmean(record["seconds"] or 0.0 for record in records)
        self.pace[candidate] = max(seconds, spent), steps
        shown = fmean(value(record, self.metric) or 0.0 for record in records)
        held = records[0].get("evaluation") == "validation"
        self.say(
            f"{self.planned.label(candidate):<34} {steps:>4} steps  "
            f"{shown:6.1%} {'held out' if held else 'on the test part'}, "
            f"{max(self.left(), 0):.0f} s left"
        )

    def leave_out(self, candidate: Candidate, why: str) -> None:
        """Keep, and say, why a candidate is not in the comparison."""
        label = self.planned.label(candidate)
        self.left_out[label] = why
        if why != NO_TIME:
            self.say(f"{label}: {why}")

    def close(self) -> None:
        """End the workers."""
        workers.stop(self.executor)


def recommend(race: Race, keep: Callable | None = None) -> Found:
    """Carry out the race and the final runs.

    Args:
        race: with time left.
        keep: given the model of the winner, as of `carry_out`.

    Raises:
        KTransferError: `E_FAILED_RUNS` if no run ended well in the time.
    """
    try:
        steps = _steps(race)
        held_out = _rungs(race, steps)
        if not held_out:
            raise KTransferError(
                "E_FAILED_RUNS",
                "no run came to its end in the time; give more of it with "
                "--time-limit.",
            )
        winner = next(iter(held_out))
        final = _final(race, winner, steps)
        if keep:
            race.say(f"keeping the model of {race.planned.label(winner)}")
            race.compare([winner], steps, [0], "test", -race.seconds, keep)
        return Found(steps, held_out, winner, final, race.left_out)
    finally:
        race.close()


def _steps(race):
    """Return the steps of the whole budget: by images, and by the time.

    They are kept, so that a race that goes on has those that it began with.
    """
    place = Path(race.results) / race.planned.experiment / "budget.json"
    asked = {"time": race.seconds, "plan": _digest(race.planned)}
    if kept := _kept(place, asked):
        return kept
    images = len(_training_images(race.planned))
    by_images = math.ceil(_EPOCHS * images / _BATCH)
    trained = next(
        c for c in race.planned.candidates if c.method == "fine_tuning"
    )
    few = 12
    race.say("measuring the seconds of a step")
    first = race.compare([trained], 2, [0], "validation", 0)
    again = race.compare([trained], few, [0], "validation", 0)
    slow = max(race.pace.get(trained, (0.0, 1))[0], 0.01) / few
    by_time = 0.1 * race.seconds * race.jobs / slow
    steps = int(max(_LEAST, min(by_images, by_time, _MOST)))
    if first and again:
        race.pace[trained] = slow * few + slow * steps / 4, steps // 4
    record = {**asked, "steps": steps}
    files.write(place, json.dumps(record, sort_keys=True).encode())
    return steps


def _kept(place, asked):
    try:
        record = json.loads(place.read_text(encoding="utf-8"))
        same = {key: record[key] for key in asked} == asked
        return int(record["steps"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(planned):
    return files.sha256(runs.canonical(planned).encode())


def _training_images(planned):
    return data.load(planned.target, planned.labels_per_class).train.y


def _rungs(race, steps):
    """Return the last records of each candidate, the best first."""
    last: dict[Candidate, list[Record]] = {}
    there = race.left()
    going = [*race.planned.controls, *race.planned.candidates]
    for number, (share, seeds, until) in enumerate(_RUNGS, start=1):
        budget = max(int(share * steps), 1)
        left = there * (1 - _RACE * until)
        if number == len(_RUNGS):
            seeds = _affordable(race, going, budget, left)
        race.say(
            f"rung {number} of {len(_RUNGS)}: {len(going)} at {budget} steps, "
            f"seeds 0 to {seeds - 1}"
        )
        found = race.compare(going, budget, range(seeds), "validation", left)
        if not found:
            break
        order = _ordered(race, found)
        last = {**{c: found[c] for c in order}, **_without(last, order)}
        kept = order[: max(math.ceil(_KEPT * len(order)), 2)]
        going = [c for c in order if c in kept or c in _references(order)]
        if number == 1:
            going += [slower for c in going if (slower := _slower(c))]
    return last


def _affordable(race, candidates, steps, left):
    """Return how many seeds of all there is time for."""
    each = sum(race.estimate(c, steps) for c in candidates) / race.jobs
    return next((n for n in _SEEDS if n * each < race.left() - left), 2)


def _references(order):
    """Return what goes on in any case, to tell what the source is worth.

    The best without a source, the best with one, and plain fine-tuning.
    """
    learnt = [c for c in order if c.method not in ("majority", *ARCHITECTURE)]
    kinds = (
        [c for c in learnt if not c.models],
        [c for c in learnt if c.models],
        [c for c in learnt if c.method == "fine_tuning"],
    )
    return [kind[0] for kind in kinds if kind]


def _slower(candidate):
    """Return the candidate at a lower rate, for what trains a source's layers.

    The default suits what starts afresh; a trained network may want less.
    """
    about = methods.describe(candidate.method)
    rate = about.hyperparameters.get("learning_rate")
    fixed = about.family in ("feature", "baselines")
    if not candidate.models or not rate or fixed:
        return None
    given = (("learning_rate", rate / _LOWER),)
    return candidate._replace(hyperparameters=given)


def _ordered(race, found):
    def mean(candidate):
        values = (value(r, race.metric) for r in found[candidate])
        return fmean(x for x in values if x is not None)

    return sorted(found, key=mean, reverse=True)


def value(record: Record, metric: str) -> float | None:
    """Return what is compared of a record, None if it has not got it."""
    if record["status"] != "ok":
        return None
    fields: dict[str, Any] = dict(record)
    held = f"validation_{metric}"
    return fields.get(held, fields.get(_ON_TEST[metric]))


def _without(last, order):
    return {c: records for c, records in last.items() if c not in order}


def _final(race, winner, steps):
    """Return the records on the test part, of as many seeds as time allows."""
    compared = [winner, *(c for c in race.planned.controls if c != winner)]
    seeds = _affordable(race, compared, steps, 0)
    race.say(f"the test part, once: {seeds} seeds")
    return race.compare(compared, steps, range(seeds), "test", -race.seconds)


def seconds_of(text: str) -> float:
    """Return the seconds of a text such as 90, 90s, 10m or 1h.

    Raises:
        KTransferError: `E_ARGUMENT`.
    """
    units: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600}
    number, unit = text.strip(), 1
    if number[-1:] in units:
        number, unit = number[:-1], units[number[-1]]
    try:
        found: Any = float(number) * unit
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise KTransferError(
            "E_ARGUMENT",
            f"a time of {text!r}; expected such as 90s, 10m or 1h.",
        )
    return found
