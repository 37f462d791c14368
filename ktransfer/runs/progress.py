"""What a sweep says while it works. No Keras import.

A plan at once, a line when a source begins and ends, one a run with the time
that is left, and on a terminal a last line of what is going on.
"""

import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from statistics import fmean
from typing import Any

from ktransfer.analysis import words
from ktransfer.analysis.record import Record
from ktransfer.runs.run import Pretraining, Run

# Seconds of silence that a line breaks where none is rewritten.
SILENCE = 30
# To the start of the line, and clear it.
ERASE = "\r\x1b[K"


class Screen:
    """Lines on a stream, and on a terminal a last one that is rewritten.

    A call prints a line that stays.
    """

    def __init__(self, stream: Any = None):
        self._stream = stream or sys.stderr
        dumb = os.environ.get("TERM") == "dumb"
        self._rewrites = self._stream.isatty() and not dumb
        self._last = time.monotonic()

    def __call__(self, line: str) -> None:
        self._last = time.monotonic()
        self._put(f"{line}\n")

    def show(self, text: str) -> None:
        """Show what is going on, until the next line takes its place."""
        if self._rewrites:
            width = shutil.get_terminal_size((80, 24)).columns
            self._put(text[: width - 1])
        elif time.monotonic() - self._last >= SILENCE:
            self(text)

    def clear(self) -> None:
        """Take away what `show` has shown."""
        self._put("")

    def _put(self, text):
        self._stream.write(ERASE * self._rewrites + text)
        self._stream.flush()


# The plan


def reading(planned: Sequence[Run]) -> str:
    """Return the line that is said before any data are read."""
    methods = {run.method for run in planned}
    tasks = dict.fromkeys(
        name
        for run in planned
        for names in (run.target, *run.sources, *run.also)
        for name in names.split("_after_")
    )
    listed = ", ".join(tasks)
    if len(tasks) > words.MOST_NAMES:
        listed = words.count(len(tasks), "data set")
    return (
        f"{planned[0].experiment}: {words.count(len(planned), 'run')} of "
        f"{words.count(len(methods), 'method')}; reading {listed}"
    )


def plan(
    planned: Sequence[Run],
    stale: Collection[Run],
    untrained: Collection[Pretraining],
    jobs: int,
) -> str:
    """Return the line that says what a sweep is going to do.

    Args:
        planned: all runs.
        stale: those of them that are carried out.
        untrained: the sources that are trained for them.
        jobs: how many are carried out at once.
    """
    kind = "run" if planned[0].evaluation == "test" else "trial"
    parts = [f"{len(stale)} to carry out"]
    if untrained:
        parts.append(f"{words.count(len(untrained), 'source')} to train")
    parts.append(words.count(jobs, "job"))
    return (
        f"{planned[0].experiment}: {words.count(len(planned), kind)}, "
        f"{len(planned) - len(stale):,} with a fresh record; "
        f"{', '.join(parts) if stale else 'none to carry out'}"
    )


# The time left


class TimeLeft:
    """How long the rest of some runs takes, by what the others took."""

    def __init__(self, planned: Iterable[Run], jobs: int):
        self._rest = dict.fromkeys(planned)
        self._jobs = jobs
        self._seconds: dict[tuple, list[float]] = defaultdict(list)

    def take(self, done: Sequence[Run], seconds: float) -> None:
        """Take in that the runs `done` took so many seconds together."""
        for run in done:
            self._rest.pop(run, None)
            for alike in _alike(run):
                self._seconds[alike].append(seconds / len(done))

    def seconds(self) -> float | None:
        """Return the seconds left, None before the first run is done."""
        if not self._seconds:
            return None
        known = [
            next(x for x in _alike(run) if x in self._seconds)
            for run in self._rest
        ]
        found = [fmean(self._seconds[alike]) for alike in known]
        return sum(found) / max(min(self._jobs, len(found)), 1)


def _alike(run):
    """Return what a run's time is taken from, the nearest first."""
    few = run.labels_per_class is not None
    return (run.method, run.steps, few), (run.method, run.steps), ()


def duration(seconds: float) -> str:
    """Return seconds as `42 s`, `5 min`, `1 h 20 min` or `2 d 3 h`."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


# What happens


class Progress:
    """Says what a sweep does, from the plan to the last run.

    Args:
        say: called with a line that stays.
        show: called, each second, with what is going on.
        stale: the runs that are carried out.
        untrained: the sources that are trained for them.
        jobs: how many are carried out at once.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        show: Callable[[str], None],
        stale: Sequence[Run],
        untrained: Collection[Pretraining],
        jobs: int,
    ):
        self._say, self._show = say, show
        self._untrained = set(untrained)
        self._training: dict[Pretraining, float] = {}
        self._left = TimeLeft(stale, jobs)
        self._done, self._total = 0, len(stale)
        self._start = time.monotonic()

    def look(self, futures: Mapping[Future, Pretraining | None]) -> None:
        """Say which sources have begun, and show what is going on."""
        for future, source in futures.items():
            begun = future.running() or future.done()
            if source in self._untrained and begun:
                self._untrained.remove(source)
                self._training[source] = time.monotonic()
                self._say(
                    f"training source {_name(source)}: {source.steps:,} steps"
                )
        self._show(self._going_on())

    def _going_on(self):
        now = time.monotonic()
        if not self._training:
            left = self._left.seconds()
            rest = f", about {duration(left)} left" if left else ""
            spent = duration(now - self._start)
            return f"{self._done} of {self._total} runs, {spent}{rest}"
        (source, start), *others = self._training.items()
        more = f", and {len(others)} more" if others else ""
        return (
            f"training source {_name(source)} ({source.steps:,} steps), "
            f"{duration(now - start)}{more}"
        )

    def source(self, source: Pretraining, facts: Mapping[str, Any]) -> None:
        """Say that a source is there, and how good it is."""
        self._training.pop(source, None)
        self._say(
            f"source {_name(source)}: {facts['test_accuracy']:.1%} on its own "
            f"test images ({source.steps:,} steps, {facts['seconds']:.0f} s)"
        )

    def runs(
        self, done: Sequence[Run], records: Sequence[Record], seconds: float
    ) -> None:
        """Say what came of runs that took so many seconds together."""
        self._left.take(done, seconds)
        left = self._left.seconds()
        rest = f"  about {duration(left)} left" if left else ""
        for record in records:
            self._done += 1
            self._say(run_line(self._done, self._total, record) + rest)


def _name(source):
    after = f" after {source.after}" if source.after else ""
    return f"{source.task}{after}, seed {source.seed}"


def run_line(done: int, total: int, record: Record) -> str:
    """Return the line of a run that is done, the `done`th of `total`."""
    labels = record["labels_per_class"]
    if record["status"] == "ok":
        outcome = f"{_result(record)}  {record['seconds']:6.1f} s"
    else:
        outcome = f"{record['status'].replace('_', ' ')}: {record['reason']}"
    budget = "all labels" if labels is None else f"{labels} a class"
    return (
        f"[{done:>{len(str(total))}}/{total}] {record['method']:<28} "
        f"{budget:<12} seed {record['seed']}  {outcome}"
    )


def _result(record):
    if "information" in record:
        return f"{record['information']:.2f} nats"
    if "validation_accuracy" in record:
        return f"{record['validation_accuracy']:6.1%} held out"
    return f"{record['test_accuracy']:6.1%}"
