"""A race: its plan, its pace, and what it does when time is short."""

import numpy as np
import pytest
from helpers import small_classifier

import ktransfer
from ktransfer import cli, methods
from ktransfer.errors import KTransferError
from ktransfer.runs import recommend
from ktransfer.runs.recommend import Candidate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2m ", 120)],
)
def test_a_time_is_read(text, seconds):
    assert recommend.seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "0", "inf", "nan", "ten", "1d"]
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(KTransferError, match="10m"):
        recommend.seconds_of(text)


def test_every_method_is_tried_or_told_why_not():
    for count in (1, 2):
        models = tuple(f"{n}.keras" for n in range(count))
        plan = recommend.plan("x", "digits", models)
        tried = {c.method for c in (*plan.controls, *plan.candidates)}
        assert tried | set(plan.left_out) == set(methods.names())
        assert not tried & set(plan.left_out)
    one = recommend.plan("x", "digits", ("a.keras",))
    assert one.left_out["task_arithmetic"] == "it needs 2 sources"


def test_the_usual_come_first_then_what_promises_most_a_second():
    plan = recommend.plan("x", "digits", ("a.keras",))
    first, second, *others = (c.method for c in plan.candidates)
    assert {first, second} == {"linear_probe", "fine_tuning"}
    assert others.index("concatenation") < others.index("l2_sp")
    assert others.index("l2_sp") < others.index("model_soup")
    assert [c.method for c in plan.controls] == list(recommend.CONTROLS)


def test_each_of_several_sources_is_tried_and_named():
    plan = recommend.plan("x", "digits", ("a.keras", "dir/b.keras:tf"))
    probes = [c for c in plan.candidates if c.method == "linear_probe"]
    labels = [plan.label(c) for c in probes]
    assert labels == ["linear_probe from a", "linear_probe from b"]
    (fused,) = [c for c in plan.candidates if c.method == "concatenation"]
    assert fused.models == ("a.keras", "dir/b.keras:tf")
    assert plan.label(fused) == "concatenation"


def test_a_run_has_the_steps_and_batches_of_all():
    plan = recommend.plan("x", "digits", ("a.keras",), 5)
    run = recommend.run_of(
        plan, Candidate("fine_tuning", ("a.keras",)), 60, 3, "validation"
    )
    assert (run.steps, run.seed, run.labels_per_class) == (60, 3, 5)
    assert run.hyperparameters == (("batch_size", 16),)
    assert run.source_models == ("a.keras",)


def test_what_is_slow_is_estimated_from_what_was_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(recommend.Race, "_started", lambda self: None)
    plan = recommend.plan("x", "digits", ("a.keras",))
    race = recommend.Race(plan, tmp_path, 2, 60)
    tuned, probe = (
        next(c for c in plan.candidates if c.method == name)
        for name in ("fine_tuning", "linear_probe")
    )
    race.pace[tuned] = 10.0, 100
    assert race.estimate(tuned, 100) == 10.0
    assert 10 < race.estimate(tuned, 200) < 20
    assert race.estimate(probe, 100) < 4
    assert race.left() <= 60


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "mine.keras"
    small_classifier().save(path)
    return path


@pytest.mark.slow
def test_it_ends_in_its_time_with_a_model_and_goes_on(model, tmp_path, capsys):
    settings = {"labels_per_class": 6, "results": tmp_path, "jobs": 2}
    told = []
    first = ktransfer.recommend(
        "digits_0to4",
        [model],
        time_limit="60s",
        say=lambda line: told.append(line),
        **settings,
    )
    assert first.best and first.best in first.table
    final = [r for some in first.found.final.values() for r in some]
    tested = [r for r in final if r["method"] == "scratch"]
    assert tested and all(r["test_accuracy"] is not None for r in tested)
    # The test part was opened for the winner and the controls alone.
    opened = {r["method"] for r in final}
    assert opened <= {first.found.winner.method, *recommend.CONTROLS}
    path = first.export(tmp_path / "exported")
    served = ktransfer.load_model(path)
    task = ktransfer.load("digits_0to4")
    logits = served.predict(task.train.x[:4], verbose=0)
    assert logits.shape == (4, 5) and np.isfinite(logits).all()
    assert (tmp_path / "exported" / "card.md").exists()
    again = ktransfer.recommend(
        "digits_0to4", [model], time_limit="60s", say=told.append, **settings
    )
    assert again.found.steps == first.found.steps


def test_what_cannot_be_is_refused_before_anything_is_loaded(
    model, tmp_path, capsys
):
    base = ["recommend", "digits", "--results", str(tmp_path)]
    source = ["--source-model", str(model)]
    for arguments, words in (
        ([*base], "no source model"),
        ([*base, *source, "--metric", "f1"], "metric"),
        ([*base, *source, "--time-limit", "soon"], "10m"),
        ([*base, *source, "--jobs", "0"], "jobs"),
        ([*base, *source, "--image-size", "32"], "image_size"),
        (["recommend", "absent", *source], "absent"),
        ([*base, "--source-model", "absent.keras"], "absent.keras"),
    ):
        assert cli.main(arguments) == 2, arguments
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1, told
