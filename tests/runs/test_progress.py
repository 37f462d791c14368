"""What a sweep says: a plan at once, each run, each source, the time left."""

import io
import re

import pytest
import synthetic
from sweeps import Here, planned, sourced

from ktransfer import cli, runs
from ktransfer.runs import progress, source_files
from ktransfer.runs.sweep import sweep


class Watched(Here):
    """An executor that notes in `lines` when it is given its first work."""

    def __init__(self, lines):
        super().__init__()
        self.lines = lines

    def submit(self, function, *args):
        if not self.calls:
            self.lines.append("work begins")
        return super().submit(function, *args)


def said(wanted, results):
    lines = []
    sweep(wanted, results, Watched(lines), lines.append)
    return lines


def test_the_plan_is_said_before_any_work(tmp_path):
    wanted = planned("majority") + sourced("feature_extraction")
    plan, *rest = said(wanted, tmp_path)
    assert plan == (
        "trial: 3 runs, 0 with a fresh record; 3 to carry out, 1 source to "
        "train, 1 job"
    )
    assert rest[:2] == [
        "work begins",
        "training source letters_0to4, seed 0: 2 steps",
    ]
    assert rest[2].startswith("source letters_0to4, seed 0: ")
    assert "on its own test images" in rest[2]
    numbers = [re.match(r"\[(\d)/3\]", line).group(1) for line in rest[3:]]
    assert numbers == ["1", "2", "3"]
    left = [re.search(r"about .* left$", line) for line in rest[3:]]
    assert left[0] and not left[-1]


def test_what_is_there_is_not_planned(tmp_path):
    wanted = planned("majority") + sourced("feature_extraction")
    said(wanted, tmp_path)
    assert said(wanted, tmp_path) == [
        "trial: 3 runs, 3 with a fresh record; none to carry out"
    ]
    path = runs.record_path(tmp_path, wanted[-1])
    path.unlink()
    # Its source lies there and is not trained again.
    plan, *rest = said(wanted, tmp_path)
    assert plan == (
        "trial: 3 runs, 2 with a fresh record; 1 to carry out, 1 job"
    )
    assert not [line for line in rest if line.startswith("training")]


def test_a_source_that_is_outdated_or_damaged_is_planned(tmp_path, monkeypatch):
    wanted = sourced("feature_extraction")
    said(wanted, tmp_path)
    (pretraining,) = runs.pretrainings(wanted[0])
    (place,) = (tmp_path / "sources").glob("*.npz")
    assert source_files.is_there(tmp_path, pretraining)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "source_fingerprint", lambda p: "of today")
        assert not source_files.is_there(tmp_path, pretraining)
    place.write_bytes(b"no archive")
    assert not source_files.is_there(tmp_path, pretraining)


def test_trials_are_called_so():
    (run,) = planned("majority", seeds=(0,), evaluation="validation")
    assert progress.plan([run], [run], [], 4) == (
        "trial: 1 trial, 0 with a fresh record; 1 to carry out, 4 jobs"
    )


def record_of(run):
    return synthetic.record(run.method, seed=run.seed)


def test_the_time_left_is_that_of_like_runs_over_the_jobs():
    wanted = planned("scratch", "majority", seeds=range(4))
    left = progress.TimeLeft(wanted, jobs=2)
    assert left.seconds() is None
    left.take(wanted[:2], 20.0)
    # Nothing is known of the majority but that it is a run.
    assert left.seconds() == pytest.approx((2 * 10 + 4 * 10) / 2)
    left.take(wanted[4:5], 1.0)
    assert left.seconds() == pytest.approx((2 * 10 + 3 * 1) / 2)
    left.take(wanted[2:4] + wanted[5:7], 4.0)
    # One run is not shared by two processes.
    assert left.seconds() == 1
    left.take(wanted[7:], 1.0)
    assert left.seconds() == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "1 s"),
        (42, "42 s"),
        (100, "2 min"),
        (3400, "57 min"),
        (3700, "1 h 2 min"),
        (7200, "2 h 0 min"),
        (100_000, "1 d 3 h"),
    ],
)
def test_a_duration_is_as_exact_as_it_is_long(seconds, text):
    assert progress.duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_line_that_is_rewritten():
    stream = Terminal()
    screen = progress.Screen(stream)
    screen("a plan")
    screen.show("working, 1 s")
    screen.show("working, 2 s")
    screen("a run")
    screen.clear()
    end = progress.ERASE
    assert stream.getvalue() == (
        f"{end}a plan\n{end}working, 1 s{end}working, 2 s{end}a run\n{end}"
    )


def test_elsewhere_a_line_breaks_a_long_silence(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    screen = progress.Screen(stream)
    screen("a plan")
    for second in range(int(2.5 * progress.SILENCE)):
        now[0] += 1
        screen.show(f"working, {second} s")
    screen.clear()
    plan, *lines = stream.getvalue().splitlines()
    assert plan == "a plan" and len(lines) == 2
    assert "\x1b" not in stream.getvalue()


def test_a_dumb_terminal_is_no_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    progress.Screen(stream).show("working")
    assert not stream.getvalue()


def test_what_goes_on_names_the_source_and_the_runs(tmp_path):
    shown = []
    wanted = sourced("feature_extraction", seeds=(0, 1))
    sweep(wanted, tmp_path, Here(), lambda line: None, show=shown.append)
    first, last = shown[0], shown[-1]
    assert first.startswith("training source letters_0to4, seed 0 (2 steps), ")
    assert last.startswith("0 of 2 runs, ")


def test_the_command_says_what_it_reads_and_plans(tmp_path, capsys):
    arguments = ["run", "--method", "majority", "--target", "digits"]
    arguments += ["--labels-per-class", "2", "--results", str(tmp_path)]
    assert cli.main([*arguments, "--jobs", "1"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "single: 1 run of 1 method; reading digits"
    assert lines[1] == (
        "single: 1 run, 0 with a fresh record; 1 to carry out, 1 job"
    )
    assert lines[2].startswith("[1/1] majority")
    assert lines[3].startswith("1 of 1 runs carried out in ")
