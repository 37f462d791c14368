"""What a race found, as a table, a figure and one sentence."""

import functools
import os
import re
import statistics
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ktransfer import data, files, plots
from ktransfer.analysis import intervals, words
from ktransfer.analysis.record import Record
from ktransfer.errors import KTransferError, unknown
from ktransfer.report import kept
from ktransfer.runs import checks, workers
from ktransfer.runs import recommend as racing
from ktransfer.runs.planning import ARCHITECTURE
from ktransfer.runs.progress import Screen
from ktransfer.runs.recommend import Candidate, Found, Plan

# Folder of the winner's model, in that of the race.
_MODEL = "model"


class Line(NamedTuple):
    """One row of the table.

    Fields:
        name: of the candidate.
        steps: of its last rung.
        held_out, test: intervals of the metric, None where it was not
            measured. Held-out values are of its last rung.
        seconds: of one run.
        note: "winner", "tied with the winner", "control" or "".
    """

    name: str
    steps: int
    held_out: intervals.Interval | None
    test: intervals.Interval | None
    seconds: float
    note: str


class Recommendation:
    """The answer to which way of transferring suits one's images.

    Args:
        plan, found: of `runs.recommend`.
        metric: "accuracy" or "balanced_accuracy".
        folder: of the results of this race.
    """

    def __init__(
        self, plan: Plan, found: Found, metric: str, folder: str | Path
    ):
        self.plan, self.found, self.metric = plan, found, metric
        self.folder = Path(folder)

    @property
    def best(self) -> str:
        """The name of the winner."""
        return self.plan.label(self.found.winner)

    @property
    def model(self) -> Path:
        """The file of the winner's model."""
        return self.folder / _MODEL / kept.FILES[0]

    @property
    def lines(self) -> list[Line]:
        """Return the rows of the table, the best first."""
        found = []
        controls = set(self.plan.controls)
        tied = self.tied
        for candidate, records in self.found.held_out.items():
            note = "control" if candidate in controls else ""
            if candidate == self.found.winner:
                note = f"winner, {note}".rstrip(", ")
            elif candidate in tied:
                note = f"tied with the winner, {note}".rstrip(", ")
            found.append(
                Line(
                    self.plan.label(candidate),
                    records[0]["steps"],
                    self._interval(records),
                    self._interval(self._tested(candidate)),
                    statistics.fmean(r["seconds"] or 0.0 for r in records),
                    note,
                )
            )
        return found

    def _interval(self, records):
        values = self._values(records)
        return intervals.mean_interval(values) if values else None

    def _values(self, records: Sequence[Record]) -> list[float]:
        found = [racing.value(record, self.metric) for record in records]
        return [x for x in found if x is not None]

    def _tested(self, candidate: Candidate) -> list[Record]:
        return self.found.final.get(candidate, [])

    @property
    def tied(self) -> list[Candidate]:
        """Return those that the last rung cannot tell from the winner."""
        best = self.found.held_out[self.found.winner]
        return [
            candidate
            for candidate, records in self.found.held_out.items()
            if candidate != self.found.winner
            and len(records) == len(best)
            and records[0]["steps"] == best[0]["steps"]
            and not _is_apart(self._gain(records, best))
        ]

    def _gain(self, records, others) -> intervals.Interval:
        """Return the paired gain of records over others, seed by seed."""
        mine, theirs = (
            {r["seed"]: racing.value(r, self.metric) for r in some}
            for some in (records, others)
        )
        seeds = sorted(set(mine) & set(theirs))
        return intervals.paired_interval(
            [mine[seed] for seed in seeds], [theirs[seed] for seed in seeds]
        )

    @property
    def source(self) -> str:
        """Return what the source is worth: a sentence.

        It compares the best method with a source with the best control
        without one, on the test part if that was opened for both, and else on
        the last rung. Where it does not help, plain fine-tuning tells whether
        it hurts.
        """
        sourced = self._best(True)
        alone = self._best(False)
        if not sourced or not alone:
            return "Whether the source helps was not measured."
        gain = self._compared(sourced, alone)
        if gain.count < 2:
            return (
                "The source does not help here: no way of using it came as far "
                f"as {self.plan.label(alone)}."
                if self.found.winner in self.plan.controls
                else "Whether the source helps was measured on one seed alone."
            )
        if gain.low > 0:
            return (
                f"The source helps: {self.plan.label(sourced)} is "
                f"{_points(gain)} above {self.plan.label(alone)}."
            )
        plain = next(
            (c for c in self.found.held_out if c.method == "fine_tuning"), None
        )
        if plain:
            cost = self._compared(plain, alone)
            if cost.high < 0:
                return (
                    f"The source hurts here: {self.plan.label(plain)} is "
                    f"{_points(cost)} from {self.plan.label(alone)}."
                )
        return (
            f"The source does not help here: {self.plan.label(sourced)} is "
            f"{_points(gain)} from {self.plan.label(alone)}."
        )

    def _best(self, sourced: bool) -> Candidate | None:
        """Return the best with or without a source, where all were tested."""
        learnt = [
            c
            for c in self.found.held_out
            if _reads_weights(c) == sourced and c.method != "majority"
        ]
        tested = [c for c in learnt if self._tested(c)]
        if sourced or not tested:
            return next(iter(learnt), None)
        return max(
            tested,
            key=lambda c: statistics.fmean(self._values(self._tested(c))),
        )

    def _compared(self, one: Candidate, other: Candidate):
        tested = self._tested(one), self._tested(other)
        if all(tested):
            return self._gain(*tested)
        return self._gain(self.found.held_out[one], self.found.held_out[other])

    @property
    def sentence(self) -> str:
        """Return the answer in one sentence."""
        tested = self._tested(self.found.winner)
        where, records = "test", tested
        if not tested:
            where, records = "held-out", self.found.held_out[self.found.winner]
        interval = self._interval(records)
        tied = [self.plan.label(candidate) for candidate in self.tied]
        others = f"; {', '.join(tied)} cannot be told from it" if tied else ""
        name = self.metric.replace("_", " ")
        return (
            f"Use {self.best}: {where} {name} "
            f"{_percent(interval)} over {interval.count} seeds{others}."
        )

    @property
    def table(self) -> str:
        """Return the table as text for a terminal."""
        name = self.metric.replace("_", " ")
        rows = [
            ("method", "steps", f"held-out {name}", f"test {name}", "s", "")
        ]
        rows += [
            (
                line.name,
                str(line.steps),
                _percent(line.held_out),
                _percent(line.test),
                words.format_seconds(line.seconds),
                line.note,
            )
            for line in self.lines
        ]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip()
            for row in rows
        ]
        why: dict[str, list[str]] = {}
        shown = {line.name for line in self.lines}
        for name, reason in self.found.left_out.items():
            if name not in shown:
                why.setdefault(reason, []).append(name)
        if why:
            lines += ["", "not in the comparison"]
        for reason, names in why.items():
            lines += textwrap.wrap(
                f"{reason}: {', '.join(names)}",
                78,
                initial_indent="  ",
                subsequent_indent="    ",
            )
        return "\n".join([*lines, "", self.sentence, self.source])

    def export(self, folder: str | Path) -> Path:
        """Copy the winner's model into `folder`, and return its path.

        Beside `model.keras`, which plain Keras opens, there are `labels.json`,
        the names of the classes, and `card.md`.

        Raises:
            KTransferError: `E_DISK` or `E_RESULTS_DIR`.
        """
        for name in kept.FILES:
            content = self.model.with_name(name).read_bytes()
            files.write(Path(folder) / name, content)
        return Path(folder) / kept.FILES[0]

    def figure(self) -> Any:
        """Return a figure of the test part: gains over scratch."""
        tested = [
            {**record, "stale": False}
            for records in self.found.final.values()
            for record in records
        ]
        return plots.forest(
            tested,
            title=f"{self.plan.target}: gain over training from scratch",
            subtitle=f"{self.found.steps} steps, test part",
            labels_per_class=self.plan.labels_per_class,
        )


def _reads_weights(candidate: Candidate) -> bool:
    return bool(candidate.models) and candidate.method not in ARCHITECTURE


def _is_apart(interval: intervals.Interval) -> bool:
    """Tell whether an interval leaves 0 out; one of one seed tells nothing."""
    return interval.low > 0 or interval.high < 0


def _points(interval: intervals.Interval) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.mean:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _percent(interval: intervals.Interval | None) -> str:
    if interval is None:
        return "-"
    mean = f"{100 * interval.mean:.1f} %"
    if interval.count < 3:
        return mean
    return f"{mean} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def recommend(
    images: str | Path,
    source_models: Sequence[str | Path],
    *,
    time_limit: float | str = 600,
    labels_per_class: int | None = None,
    metric: str = "accuracy",
    results: str | Path = "results",
    jobs: int | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> Recommendation:
    """Return which way of transferring from `source_models` suits `images`.

    All that it carries out is kept: called again, it goes on.

    Args:
        images: name of a data set, or a folder of images of one's own.
        source_models: as of `load_source`, at least one: file or name.
        time_limit: seconds, or a text such as "10m".
        labels_per_class: labelled images that methods may have, None for all.
        metric: "accuracy", or "balanced_accuracy", the mean over classes.
        results: folder of the records.
        jobs: worker processes, None for one a core.
        say: called with a line of progress; None prints it on stderr.
        options: of `load_images`, for a folder: image_size, fit, test_share
            and seed.

    Raises:
        KTransferError: `E_ARGUMENT` or `E_UNKNOWN` for what is asked, what
            data and models raise, and `E_FAILED_RUNS` if nothing came to its
            end in the time.
    """
    _check(metric, source_models)
    say = say or Screen()
    seconds = racing.seconds_of(str(time_limit))
    started = time.monotonic()
    target, experiment = read_images(images, Path(results), options, say)
    models = [str(model) for model in source_models]
    plan = racing.plan(experiment, target, models, labels_per_class)
    for candidate in (*plan.controls, *plan.candidates):
        checks.check_run(racing.run_of(plan, candidate, 1, 0, "test"))
    for line in announced(plan, seconds):
        say(line)
    race = racing.Race(
        plan,
        results,
        jobs or workers.num_cores(),
        seconds,
        say,
        metric,
        started,
    )
    folder = Path(results) / experiment
    keep = functools.partial(kept.keep, folder / _MODEL, results)
    found = racing.recommend(race, keep)
    return Recommendation(plan, found, metric, folder)


def _check(metric, source_models):
    if metric not in racing.METRICS:
        raise unknown("metric", metric, racing.METRICS)
    if not source_models:
        raise KTransferError(
            "E_ARGUMENT", "no source model is given; expected at least one."
        )


def read_images(
    images: str | Path,
    results: Path,
    options: dict[str, Any],
    say: Callable[[str], None],
) -> tuple[str, str]:
    """Return the name of the data set, and that of its race.

    A folder is read into a data set beside the records, which it names for
    this process and its workers.

    Args:
        images: name of a data set, or a folder.
        results: folder of the records.
        options: of `load_images`.
        say: called with each line of the report on a folder.
    """
    if not Path(images).is_dir():
        if options:
            raise KTransferError(
                "E_ARGUMENT",
                f"{', '.join(options)} is for a folder of images, and "
                f"{images} is none.",
            )
        data.check_name(str(images))
        return str(images), f"recommend_{images}"
    name = re.sub(r"[^a-z0-9]+", "_", Path(images).resolve().name.lower())
    name = f"{name.strip('_') or 'images'}_folder"
    folder = results / f"recommend_{name}" / "images"
    found = data.pack(images, folder / f"{name}.npz", **options)
    for line in found.report.lines():
        say(line)
    # Workers read it too, by its name.
    known = os.environ.get("KTRANSFER_DATA")
    places = [str(folder.resolve()), *([known] if known else [])]
    os.environ["KTRANSFER_DATA"] = os.pathsep.join(dict.fromkeys(places))
    return name, f"recommend_{name}"


def announced(plan: Plan, seconds: float) -> list[str]:
    """Return the lines that say what is going to be compared."""
    task = data.load(plan.target, plan.labels_per_class)
    height, width, channels = task.image_shape
    budget = words.labels(plan.labels_per_class)
    return [
        f"{plan.target}: {len(task.train.y)} labelled images of "
        f"{height} x {width} x {channels}, {task.num_classes} classes, "
        f"{budget}",
        *(f"source {text}" for text in _models(plan)),
        f"{len(plan.candidates)} ways and {len(plan.controls)} controls within "
        f"{words.format_seconds(seconds)} s; not tried: "
        f"{len(plan.left_out)} that need what a model alone has not",
    ]


def _models(plan):
    return sorted({text for c in plan.candidates for text in c.models})
